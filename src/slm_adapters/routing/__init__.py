"""Who answers: the small model first, the large one when needed."""
