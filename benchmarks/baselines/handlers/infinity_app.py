"""infinity's own command line, which transformers tells about models with a head of this project."""

from infinity_emb.cli import cli

import handler.pooled_classifier  # noqa: F401 - makes transformers know it

if __name__ == "__main__":
    cli()
