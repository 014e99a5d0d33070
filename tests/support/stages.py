"""What the two stages of the paper train."""

STAGE1 = ("projector", "embedding", "lm_head", "to_prompt", "mask_decoder")
STAGE2 = (*STAGE1, "lora")
