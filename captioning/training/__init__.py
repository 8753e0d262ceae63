"""From captioned pictures to a trained captioner: what `python -m captioning train` does.

The loop itself is GPT-2's (`gpt2_scratch.training.loop`); what lives here gives it captions,
looks at what comes out, and knows what a step takes.
"""
