"""Where the faces of whole scenes are: detectors for SyncNet, which looks at faces alone."""
