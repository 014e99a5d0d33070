"""The paper's pictures, drawn from any run of ours: one module per figure, one page for all."""
