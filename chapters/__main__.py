"""`python -m chapters list`: what the course will hold."""

from tyro.extras import subcommand_cli_from_dict

CHAPTERS = (
    "Warm-up: edit, check, read the diagnosis",
    "From bytes to tokens",
    "Embeddings, positions, and batches of unequal length",
    "Layer norm, GELU, and OpenAI's linear map",
    "One attention head",
    "Many heads, padding and minus infinity",
    "MLP, block, the whole model",
    "OpenAI's weights in your own GPT-2",
    "Writing text: sampling and search",
    "The key/value cache",
    "The loss, and training from zero",
    "Fine-tuning on one GPU",
    "Seeing: CLIP's image tower",
    "The Dense Connector, and captions",
    "Is it any good? Scoring captions",
)


def list_chapters() -> None:
    """Print the chapters that are planned; none is there yet."""
    for number, title in enumerate(CHAPTERS):
        print(f"{number:>2}  {title}  (coming)")


def main() -> None:
    subcommand_cli_from_dict(
        {"list": list_chapters}, prog="python -m chapters", description="The course."
    )


if __name__ == "__main__":
    main()
