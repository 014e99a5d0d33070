"""Language models: the families that are accepted, how each is loaded, asked and adapted.

`families.FAMILIES` lists them by the `model_type` of config.json; a family is one `Language`.
"""
