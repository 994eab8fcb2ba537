"""Parts of ``slm_adapters.langchain``; import that module instead."""
