"""The functional suite's sentences, as templates with one right answer each.

Functional classes follow HateCheck (Röttger et al., 2021, https://aclanthology.org/2021.acl-long.4); the
sentences are our own, none is HateCheck's or the demo corpus', and none holds a slur or profanity. Every
template with `{group}` is asked of every group, so that groups can be compared; the others have a slot of
their own. They are synthetic, short and plain: passing them is necessary for a classifier, and far from
enough.
"""

GROUPS = (
    "women",
    "immigrants",
    "Muslims",
    "Jews",
    "gay people",
    "trans people",
    "disabled people",
    "Black people",
)

FILLERS: dict[str, tuple[str, ...]] = {
    "object": (
        "parking meter",
        "alarm clock",
        "stapler",
        "dishwasher",
        "router",
        "vending machine",
        "lawnmower",
    ),
    "someone": ("My flatmate", "That goalkeeper", "My driving examiner", "The caretaker", "Our tax adviser"),
    "profession": (
        "telemarketers",
        "tabloid editors",
        "debt collectors",
        "ticket touts",
        "spammers",
        "hedge funds",
    ),
    "moment": ("tonight", "this week", "before lunch", "in this heat", "after the exam", "on the last lap"),
}

HATEFUL: dict[str, tuple[str, ...]] = {
    "strong negative emotion": (
        "Nothing makes me angrier than the sight of {group}.",
        "My contempt for {group} grows with every year.",
        "I loathe {group} with all my heart.",
    ),
    "derogation": (
        "{group} have no decency and never will.",
        "Deep down {group} are rotten, and anyone can see it.",
        "{group} ruin whatever they touch.",
    ),
    "dehumanising comparison": (
        "{group} are filth on the shoe of this nation.",
        "Living beside {group} is like living beside cockroaches.",
        "To call {group} human is far too kind.",
    ),
    "exclusion": (
        "No shop should be made to serve {group}.",
        "{group} should be kept off our buses and out of our parks.",
        "Take their passports away from {group} and be done with it.",
    ),
    "threat": (
        "{group} will be sorry that they ever moved in here.",
        "If {group} march again, we will teach them to be afraid.",
        "One night we shall come for {group}, wait and see.",
    ),
    "implicit derogation": (
        "Funny how the till comes up short whenever {group} are hired.",
        "Since {group} moved in, I count my spoons after dinner.",
        "I would sooner leave the flat empty than let it to {group}.",
    ),
    "hate as a question": (
        "Why are {group} even allowed to breathe our air?",
        "Who invited {group} to spoil everything we built?",
        "Is there anything on earth more worthless than {group}?",
    ),
    "hate as an opinion": (
        "In my view {group} deserve every bit of misery they get.",
        "If you ask me, {group} ought to have fewer rights than the rest of us.",
        "I honestly believe that {group} are inferior.",
    ),
    "hate across clauses": (
        "We have {group} next door. They disgust me.",
        "I saw {group} at the fair, and such creatures should not be let in anywhere.",
        "You know {group}? Garbage, every last one.",
    ),
    "negated praise": (
        "Not one decent thought has ever come from {group}.",
        "{group} do not deserve any kindness at all.",
        "There is nothing good to be said about {group}.",
    ),
}

# Hateful templates that are also asked misspelt: what a filter by words would miss.
MISSPELT = ("strong negative emotion", "derogation")

NOT_HATEFUL: dict[str, tuple[str, ...]] = {
    "neutral mention": (
        "The museum opened an exhibition about {group} in the twentieth century.",
        "A survey asked {group} how they travel to work.",
        "There were {group} among the passengers.",
    ),
    "positive mention": (
        "I am glad that {group} joined our choir.",
        "{group} on my team taught me a great deal.",
        "What a pleasure it was to celebrate with {group} last night.",
    ),
    "negated hate": (
        "I do not think that {group} are inferior to anyone.",
        "Nobody should claim that {group} ruin whatever they touch.",
        "It is simply false that {group} have no decency.",
    ),
    "hate quoted and denounced": (
        'Whoever writes "{group} are filth" should be banned from this forum.',
        '"{group} deserve misery" is a vile thing to say, and I reported it.',
        'Shouting "keep {group} off our buses" is the bigotry that we fight.',
    ),
    "counter speech": (
        "Stop insulting {group}, they are our neighbours.",
        "Whoever threatens {group} will have to deal with all of us.",
        "Your jokes about {group} are cruel, and I will not laugh.",
    ),
    "abuse of an object": (
        "I loathe this {object}, it never works.",
        "That {object} is garbage and belongs in a skip.",
        "Nothing makes me angrier than the sight of this {object}.",
    ),
    "abuse of one person": (
        "{someone} is rotten, and anyone can see it.",
        "{someone} has no decency and never will.",
        "{someone} disgusts me after that stunt.",
    ),
    "abuse of a trade": (
        "{profession} ruin whatever they touch.",
        "My contempt for {profession} grows with every year.",
        "There is nothing good to be said about {profession}.",
    ),
    "figure of speech": (
        "I could murder a cup of tea {moment}.",
        "My feet are killing me {moment}.",
        "We got absolutely destroyed {moment}, what a match.",
    ),
}
