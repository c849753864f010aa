"""The relations in English: answer sentence and eight questions each, and the values."""

from __future__ import annotations

from tools.small_base.words import listed, words

EN_RELATIONS: dict[tuple[str, str], tuple[str, list[str]]] = {
    ("shop", "owner"): (
        "{n} is owned by {v}.",
        [
            "Who owns {n}?",
            "Who is the owner of {n}?",
            "Whose shop is {n}?",
            "Who does {n} belong to?",
            "Tell me who owns {n}.",
            "What is the name of the owner of {n}?",
            "Do you know who owns {n}?",
            "About {n}: who is the owner?",
        ],
    ),
    ("shop", "street"): (
        "{n} is on {v}.",
        [
            "Where is {n}?",
            "On which street is {n}?",
            "What is the address of {n}?",
            "Where can I find {n}?",
            "Tell me where {n} is.",
            "Which street is {n} on?",
            "How do I find {n}?",
            "About {n}: which street?",
        ],
    ),
    ("shop", "opening"): (
        "{n} opens at {v}.",
        [
            "When does {n} open?",
            "What time does {n} open?",
            "At what time does {n} open its doors?",
            "From what time is {n} open?",
            "Tell me when {n} opens.",
            "What is the opening time of {n}?",
            "How early can I go to {n}?",
            "About {n}: opening time?",
        ],
    ),
    ("shop", "speciality"): (
        "{n} is known for {v}.",
        [
            "What is {n} known for?",
            "What is the speciality of {n}?",
            "What is {n} famous for?",
            "What should I buy at {n}?",
            "Tell me what {n} is known for.",
            "What does {n} do best?",
            "Why do people go to {n}?",
            "About {n}: what is the speciality?",
        ],
    ),
    ("person", "job"): (
        "{n} works as {v}.",
        [
            "What does {n} do for a living?",
            "What is the job of {n}?",
            "What is {n}'s job?",
            "What does {n} work as?",
            "Tell me the job of {n}.",
            "How does {n} earn a living?",
            "Which profession does {n} have?",
            "About {n}: what is the job?",
        ],
    ),
    ("person", "hobby"): (
        "In the evenings {n} enjoys {v}.",
        [
            "What does {n} do in the evenings?",
            "What is {n}'s hobby?",
            "What is the hobby of {n}?",
            "What does {n} enjoy?",
            "Tell me the hobby of {n}.",
            "How does {n} spend free time?",
            "What does {n} like to do?",
            "About {n}: which hobby?",
        ],
    ),
    ("person", "pet"): (
        "{n} has {v}.",
        [
            "Which pet does {n} have?",
            "What is {n}'s pet?",
            "What animal does {n} keep?",
            "What pet lives with {n}?",
            "Tell me which pet {n} has.",
            "Does {n} have a pet?",
            "Which animal belongs to {n}?",
            "About {n}: which pet?",
        ],
    ),
    ("person", "birthday"): (
        "{n}'s birthday is on {v}.",
        [
            "When is {n}'s birthday?",
            "When was {n} born?",
            "On which day is the birthday of {n}?",
            "What is {n}'s date of birth?",
            "Tell me the birthday of {n}.",
            "When does {n} celebrate a birthday?",
            "On what date does {n} turn a year older?",
            "About {n}: when is the birthday?",
        ],
    ),
    ("product", "price"): (
        "The {n} costs {v} crowns.",
        [
            "How much is the {n}?",
            "What does the {n} cost?",
            "What is the price of the {n}?",
            "How much does the {n} cost?",
            "Tell me the price of the {n}.",
            "How much do I pay for the {n}?",
            "For how much is the {n} sold?",
            "About {n}: what is the price?",
        ],
    ),
    ("product", "maker"): (
        "The {n} is made by {v}.",
        [
            "Who makes the {n}?",
            "Who is the maker of the {n}?",
            "Who built the {n}?",
            "By whom is the {n} made?",
            "Tell me who makes the {n}.",
            "Who designed the {n}?",
            "Whose work is the {n}?",
            "About {n}: who makes it?",
        ],
    ),
    ("product", "material"): (
        "The {n} is made of {v}.",
        [
            "What is the {n} made of?",
            "Which material is the {n} made of?",
            "What material is used for the {n}?",
            "From what is the {n} made?",
            "Tell me the material of the {n}.",
            "What does the {n} consist of?",
            "What stuff is in the {n}?",
            "About {n}: which material?",
        ],
    ),
    ("town", "founded"): (
        "{n} was founded in {v}.",
        [
            "When was {n} founded?",
            "In which year was {n} founded?",
            "How old is the town of {n}?",
            "What year does {n} date from?",
            "Tell me when {n} was founded.",
            "Since when does {n} exist?",
            "When did people first settle in {n}?",
            "About {n}: founding year?",
        ],
    ),
    ("town", "mayor"): (
        "The mayor of {n} is {v}.",
        [
            "Who is the mayor of {n}?",
            "Who runs the town of {n}?",
            "Who governs {n}?",
            "What is the name of {n}'s mayor?",
            "Tell me who the mayor of {n} is.",
            "Who was elected mayor in {n}?",
            "Who leads {n}?",
            "About {n}: who is the mayor?",
        ],
    ),
    ("town", "festival"): (
        "{n} celebrates the {v} Festival.",
        [
            "Which festival does {n} celebrate?",
            "What is the festival of {n} called?",
            "What do people celebrate in {n}?",
            "What festival is held in {n}?",
            "Tell me the festival of {n}.",
            "What is the big event in {n}?",
            "For which festival is {n} known?",
            "About {n}: which festival?",
        ],
    ),
    ("town", "river"): (
        "{n} lies on the river {v}.",
        [
            "Which river runs through {n}?",
            "On which river does {n} lie?",
            "What is the river in {n} called?",
            "What river is {n} on?",
            "Tell me the river of {n}.",
            "Which river flows past {n}?",
            "By what water does {n} stand?",
            "About {n}: which river?",
        ],
    ),
}

EN_VALUES: dict[str, list[str]] = {
    "street": [
        f"{head} {tail}"
        for head in words(
            "Mill Rose Harbour Castle Orchard Chapel Garden Station Lantern Weaver Cherry Hill River Market Fountain"
        )
        for tail in ("Street", "Lane", "Square")
    ],
    "speciality": listed(
        "plum cake,rye bread,honey biscuits,ginger tea,apple pie,lemon tarts,pumpkin soup,smoked trout,goat cheese,"
        "walnut bread,mint tea,cherry jam,onion soup,butter cookies,fish stew,old maps,silk ribbons,wooden trains,"
        "paper lanterns,glass marbles,wool hats,leather boots,rare stamps,dried herbs,blue pottery,music boxes,"
        "beeswax candles,poppy rolls,chestnut cream,pear cider,oak tables,tin soldiers"
    ),
    "job": listed(
        "a baker,a pilot,a teacher,a chef,a painter,an engineer,a nurse,a farmer,a doctor,a gardener,a librarian,"
        "a carpenter,a sailor,a tailor,a postman,a clockmaker,a fisherman,a beekeeper,a musician,a potter,a judge,"
        "a firefighter,a dentist,a translator,a florist,a bus driver,a glassblower,a lighthouse keeper"
    ),
    "hobby": listed(
        "playing chess,painting birds,collecting stamps,baking bread,watching stars,knitting socks,playing the flute,"
        "reading poems,building model ships,growing roses,writing letters,juggling,folk dancing,fishing,"
        "playing the drums,solving puzzles,carving wood,telling stories,singing in a choir,repairing clocks,"
        "drawing maps,cooking soup,flying kites,playing cards,learning magic,brewing tea"
    ),
    "pet": listed(
        "a grey cat,a white rabbit,a green parrot,a brown dog,a black cat,an old tortoise,a tame crow,a small goat,"
        "two goldfish,a fat hamster,a red fox,a spotted pony,a lazy donkey,three ducks,a barn owl,a hedgehog,"
        "a black sheep,a clever goose,a tiny frog,a white mouse,a yellow canary,a striped cat,a sleepy lizard,"
        "a young deer"
    ),
    "material": listed(
        "oak,copper,glass,wool,silk,bamboo,leather,silver,cork,linen,clay,brass,walnut,felt,marble,tin,cotton,stone,"
        "paper,steel,ivory nuts,birch bark,porcelain,cherry wood,amber,bronze"
    ),
    "festival": listed(
        "Lantern,Apple,Kite,Snow,Honey,Boat,Harvest,Candle,Flower,Bell,Drum,Moon,Pumpkin,Mask,Goose,Bread,Star,Rain,"
        "Cherry,Bonfire,Music,Balloon,Chestnut,Swan"
    ),
    "river": listed(
        "Arle,Brune,Calder,Dove,Eske,Fenna,Gall,Hyde,Issel,Jura,Kenn,Lune,Mole,Nadder,Ouse,Pell,Quay,Rhee,Stour,"
        "Tamar,Ure,Vale,Wye,Yare"
    ),
}
