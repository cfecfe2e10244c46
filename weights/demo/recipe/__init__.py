"""The recipe of the built-in model: everyday sentences, speech, training and the model's files."""
