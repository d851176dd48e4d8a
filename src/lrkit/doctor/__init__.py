"""Doctor: Run → Findings. What is wrong, since when, how sure, and which rate to use instead. No torch.

One illness a file; `diagnosis.RULES` lists them.
"""
