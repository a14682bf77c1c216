"""Writers of small real folders in the layouts of public data sets."""
