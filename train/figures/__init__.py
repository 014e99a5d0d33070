"""The paper's figures, drawn from any run: one module per figure, one page for all."""
