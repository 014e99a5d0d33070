"""Language models: the families that are accepted, how each is loaded, asked and adapted.

`families.FAMILIES` lists them by the `model_type` of config.json; a family is one `Language`.
"""

# Linear layers of LLaMA, which other families name otherwise; no PyTorch is imported to name them.
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
