"""`svp reproduce`: the paper's tables as declared rows, run, compared and written down."""
