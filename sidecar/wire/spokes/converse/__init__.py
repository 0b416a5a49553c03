"""AWS Bedrock Converse: read into the neutral form and written from it."""
