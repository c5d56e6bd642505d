"""Evaluation: runs against judgements, and what smaller vectors keep of the neighbours."""
