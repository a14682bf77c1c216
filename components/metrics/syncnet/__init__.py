"""Sync-C and Sync-D: lips and sound in the space of a SyncNet."""
