"""Reading what runs have left behind: records, scores, statistics."""
