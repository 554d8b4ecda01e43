"""`make results`: print the table of results/ and renew the generated parts of the documents."""

from rich.console import Console
from rich.markdown import Markdown

from reverie import catalog, evidence, pairs
from reverie.core import registry


def main() -> None:
    """Check and print all claims, then renew docs/results.md and README.md."""
    claims = evidence.load_all()
    Console().print(Markdown(evidence.table(claims)))
    evidence.renew("docs/results.md", "results", evidence.table(claims))
    evidence.renew("README.md", "schools", catalog.markdown(catalog.cards(), claims))
    evidence.renew("README.md", "pairs", pairs.table(registry.names("model")))


if __name__ == "__main__":
    main()
