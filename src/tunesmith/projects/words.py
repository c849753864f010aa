"""Two words for a split that nobody named, such as "Quiet Lantern"."""

import secrets


def two_words() -> str:
    """A name by chance."""
    return " ".join(secrets.choice(words.split()) for words in (_FIRST, _SECOND))


_FIRST = (
    "Amber Ancient Autumn Bold Brave Bright Calm Clear Clever Coral Crimson Curious Daring Dawn Eager Early Emerald Fair "
    "Fresh Gentle Golden Grand Happy Hidden Honest Humble Ivory Jolly Keen Kind Lively Lucky Mellow Mighty Misty Modest "
    "Noble Northern Patient Polished Proud Quick Quiet Rapid Rosy Rustic Scarlet Serene Shining Silent Silver Simple "
    "Southern Steady Sunny Swift Tender Velvet Vivid Warm Wise Witty Young Zesty"
)
_SECOND = (
    "Acorn Anchor Arrow Aspen Badger Beacon Birch Breeze Bridge Brook Canyon Cedar Comet Compass Creek Dolphin Ember "
    "Falcon Fern Field Finch Forest Fountain Galaxy Garden Glacier Harbor Heron Hill Island Jasmine Kettle Lake Lantern "
    "Lark Maple Meadow Mirror Moon Mountain Nest Ocean Orchard Otter Owl Pebble Pine Planet Prairie Quill Reef River "
    "Sparrow Spring Stone Summit Teapot Thicket Tiger Valley Violin Willow Window Wren"
)
