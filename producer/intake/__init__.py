"""Files, pipes and frames become rows, in chunks and constant memory."""
