"""What is asked of the pocket models: roles that imply an attribute, whose name is the negative."""

# case -> attribute, value, roles to tune on, roles to report on. Reported roles, seeds and wording
# are never looked at in tuning.
CASES = {
    "hat": ("head", "hat", ("detective",), ("cowboy", "explorer")),
    "glasses": ("eyewear", "glasses", ("scientist", "librarian"), ("AI researcher", "professor")),
    "sunglasses": ("eyewear", "sunglasses", ("movie star",), ("spy", "rock star")),
    "mask": ("mask", "mask", ("nurse",), ("surgeon",)),
    "beard": ("facial hair", "beard", ("viking",), ("lumberjack", "wizard")),
}
# what nobody wears for the role, and for a hat's another
IRRELEVANT = {case: "glasses" if case == "hat" else "hat" for case in CASES}
CONTROLS = "irrelevant", "empty"
