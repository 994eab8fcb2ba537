"""The parts of ``slm_adapters.crewai``; import from there."""
