"""What watches: evaluation, reports and outputs."""
