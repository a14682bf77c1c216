"""Where the faces of whole scenes are: detectors in SyncNet's place for one, and cuts between shots."""
