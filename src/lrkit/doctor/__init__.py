"""Doctor: Run → Findings. What is wrong, since when, how sure, and which rate to use instead. No torch.

One illness a file; `diagnosis` lists them. `curve` is a run as the rules read it, `signal` what they read off its rows, `shape`
and `odds` how probable it is that the rate was wrong; `faults` plants illnesses.
"""
