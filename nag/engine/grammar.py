"""Words that agree with what they stand beside: sentences are made of what a meter reads."""


def attribute(name: str) -> str:
    """An attribute of the meter as it is seen: what its "head" reads are hats and hair."""
    return "hat or hair" if name == "head" else name


def plural(thing: str) -> bool:
    return thing.endswith("glasses")


def be(thing: str) -> str:
    return "are" if plural(thing) else "is"


def it(thing: str) -> str:
    return "them" if plural(thing) else "it"


def its(thing: str) -> str:
    return "their" if plural(thing) else "its"


def with_article(thing: str) -> str:
    if plural(thing):
        return thing
    return f"an {thing}" if thing[0] in "aeiou" else f"a {thing}"


def listed(names: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1]))) if names else ""
