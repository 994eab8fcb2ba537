"""Parts of ``slm_adapters.litellm``; import that module instead."""
