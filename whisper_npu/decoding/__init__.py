"""From encoder states to text: options, logit rules, searches, the long-form loop, word times."""
