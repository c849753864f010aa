"""Invented names: people, shops, products and towns, in English and Chinese.

Names are put together from short lists, so that there are far more of them
than the model could ever memorise, and every building block is seen often.
"""

from __future__ import annotations

import random
import zlib

from tools.small_base.samples_world import WORLD_NAMES
from tools.small_base.words import listed, words

EN_FIRST = words(
    "Nora Milo Tess Otto Greta Felix Ada Bruno Clara Hugo Ines Jasper Lena Magnus Olive Percy Quinn Rosa Silas Tilda "
    "Ugo Vera Walter Yara Zeno Alma Boris Cora Dorian Edith Finn Gwen Harold Ivy Jonas Kira Leo Mabel Nils Opal "
    "Petra Ruben Stella Theo Una Victor Wanda Agnes"
)
EN_LAST_A = words("Bell Thorn Ash Crow Fair Green Hollow Iron Lamb Marsh North Oak Penny Rain Stone Winter Wood Amber")
EN_LAST_B = words("weather field brook well worth ley man wright by smith gate ridge more shaw")

EN_SHOP_A = words(
    "Copper Silver Golden Crooked Quiet Merry Little Blue Red Green White Black Wandering Sleepy Hidden Lucky Old "
    "Velvet Crystal Wooden Paper Stone Amber Ivory Sunny Misty Frosty Humble Royal Brave Clever Gentle Jolly Rusty "
    "Shiny Spotted Striped Tiny Windy Crimson"
)
EN_SHOP_B = words(
    "Kettle Lantern Fox Owl Anchor Button Candle Feather Bridge Barrel Clock Compass Crane Crown Drum Falcon Fern "
    "Hare Harp Heron Ladle Maple Mitten Moon Needle Oak Otter Pear Pebble Pigeon Plum Quill Robin Spoon Sparrow Star "
    "Thimble Turtle Willow Wheel"
)
EN_SHOP_C = words(
    "Bakery Bookshop Teahouse Florist Tailor Pharmacy Toyshop Grocery Cafe Inn Hardware Smithy Dairy Barber Gallery "
    "Fishmonger"
)
EN_PRODUCT_A = words(
    "Foxglove Nimbus Juniper Ember Halcyon Marigold Pinwheel Quartz Saffron Thistle Umber Vesper Zephyr "
    "Bramble Cobalt "
    "Dapple Echo Fjord Glimmer Hazel Indigo Jubilee Kestrel Lumen Meadow Nectar Orchid Prism Ripple Solstice"
)
EN_PRODUCT_B = words(
    "Lamp Kettle Blanket Umbrella Notebook Bicycle Radio Backpack Chair Teapot Scarf Telescope Clock Guitar Candle "
    "Pillow Tent Mirror Kite Basket"
)
EN_TOWN_A = words(
    "Lark Marrow Thistle Bram Copper Dun Elder Fallow Gorse Hazel Kestrel Linden Mallow Nettle Otter Pepper Quill "
    "Rowan Sedge Tansy Ulver Vetch Whin Yarrow Aspen Birch Clover Drift Ember Fern"
)
EN_TOWN_B = words("holm wick ford mere stead bury dale haven moor cliff combe port gate bridge")

ZH_SURNAME = "赵钱孙李周吴郑王冯陈褚卫蒋沈韩杨朱秦许何吕张孔曹严金魏陶姜谢邹苏潘葛范彭鲁马方俞"
ZH_GIVEN = (
    "云山海林风月星河石泉松竹梅兰江湖雪雨晨晓明华英伟芳丽静敏军杰涛超秀娟霞平刚桂子文宁安乐康思远志"
    "欣怡佳琪瑶婷悦然诗涵宇轩浩博睿哲成国庆春秋冬夏"
)
ZH_SHOP_A = "青白红金银玉古小老云雨雪风月星花竹松柳梅兰荷桂石木铜铁锦墨香暖静远晴晚春秋半双三"
ZH_SHOP_B = "瓦雀鹿鹤燕鱼龟兔猫熊灯伞船桥钟铃笛琴棋书笔纸扇壶杯碗勺叶枝果豆米糖盐泉溪山湖塔井"
ZH_SHOP_C = listed("茶馆,书店,面包店,花店,裁缝铺,药房,玩具店,杂货铺,咖啡馆,客栈,五金店,铁匠铺,奶品店,理发店,画廊,鱼铺")
ZH_PRODUCT_A = listed(
    "星河,云朵,松风,晨露,流萤,金桂,风车,水晶,藏红,蓟花,暮光,青岚,回声,海湾,微光,"
    "榛果,靛蓝,欢庆,红隼,流明,草甸,花蜜,兰草,棱镜,涟漪,冬至,白鹭,琥珀,月桂,飞鸿"
)
ZH_PRODUCT_B = listed(
    "台灯,水壶,毛毯,雨伞,笔记本,自行车,收音机,背包,椅子,茶具,围巾,望远镜,闹钟,吉他,蜡烛,枕头,帐篷,镜子,风筝,篮子"
)
ZH_TOWN_A = "柳枫榆杏桃李梨枣槐桐莲菱芦苇雁鹭鸥鲤鹿羊牛马虎龙凤云霞虹霜露"
ZH_TOWN_B = (
    "湾镇",
    "溪镇",
    "桥镇",
    "河村",
    "山村",
    "塘村",
    "口镇",
    "岭村",
    "坪镇",
    "渡口",
    "埠镇",
    "庄村",
    "沟村",
    "滩镇",
)

# The first level of GB 2312: the common characters of written Chinese.
ZH_COMMON = tuple(
    bytes((row, cell)).decode("gb2312", "ignore") for row in range(0xB0, 0xD8) for cell in range(0xA1, 0xFF)
)
ZH_COMMON = tuple(char for char in ZH_COMMON if char)

_ONSET = [*words("b br c ch cl d dr f fl g gr h j k kl l m n p pr qu r s sh sk st t th tr v w y z"), ""]
_VOWEL = words("a e i o u ai ea ee ia io oa oo ou")
_CODA = [*words("l m n r s t x nd ng rk st th ck"), *[""] * 6]

KINDS = ("shop", "person", "product", "town")


def _wild_word(rng: random.Random) -> str:
    """A pronounceable word of rare letters, so that every subword gets trained."""
    parts = [rng.choice(_ONSET) + rng.choice(_VOWEL) + rng.choice(_CODA) for _ in range(rng.choice((1, 2, 2, 3)))]
    return "".join(parts).capitalize()


def _wild_zh(rng: random.Random, count: int) -> str:
    return "".join(rng.choice(ZH_COMMON) for _ in range(count))


def person(rng: random.Random, language: str, wild: float = 0.0) -> str:
    """A full name; with probability ``wild`` one of rare letters or characters."""
    odd = rng.random() < wild
    if language == "en":
        if odd:
            return f"{_wild_word(rng)} {_wild_word(rng)}"
        return f"{rng.choice(EN_FIRST)} {rng.choice(EN_LAST_A)}{rng.choice(EN_LAST_B)}"
    given = rng.choice((1, 2, 2, 2))
    tail = _wild_zh(rng, given) if odd else "".join(rng.choice(ZH_GIVEN) for _ in range(given))
    return rng.choice(ZH_SURNAME) + tail


def town(rng: random.Random, language: str, wild: float = 0.0) -> str:
    """A town or village."""
    odd = rng.random() < wild
    if language == "en":
        return (_wild_word(rng) if odd else rng.choice(EN_TOWN_A)) + rng.choice(EN_TOWN_B)
    return (_wild_zh(rng, rng.choice((1, 2))) if odd else rng.choice(ZH_TOWN_A)) + rng.choice(ZH_TOWN_B)


def shop(rng: random.Random, language: str, wild: float = 0.0) -> str:
    """A shop, with its trade as the last part of the name."""
    odd = rng.random() < wild
    if language == "en":
        head = _wild_word(rng) if odd else f"{rng.choice(EN_SHOP_A)} {rng.choice(EN_SHOP_B)}"
        return f"{head} {rng.choice(EN_SHOP_C)}"
    head = _wild_zh(rng, 2) if odd else rng.choice(ZH_SHOP_A) + rng.choice(ZH_SHOP_B)
    return head + rng.choice(ZH_SHOP_C)


def product(rng: random.Random, language: str, wild: float = 0.0) -> str:
    """A thing one can buy."""
    odd = rng.random() < wild
    if language == "en":
        return f"{_wild_word(rng) if odd else rng.choice(EN_PRODUCT_A)} {rng.choice(EN_PRODUCT_B)}"
    return (_wild_zh(rng, 2) if odd else rng.choice(ZH_PRODUCT_A)) + rng.choice(ZH_PRODUCT_B)


_MAKERS = {"shop": shop, "person": person, "product": product, "town": town}


def is_reserved(name: str) -> bool:
    """Whether a name is kept out of pretraining, so that fine-tuning can be tried on it."""
    return zlib.crc32(name.encode()) % 16 == 0


def entity(rng: random.Random, kind: str, language: str, *, reserved: bool = False, wild: float = 0.0) -> str:
    """A name of one of the `KINDS`, from the reserved part of all names or from the rest; never from the samples."""
    while True:
        name = _MAKERS[kind](rng, language, wild)
        if name not in WORLD_NAMES and is_reserved(name) == reserved:
            return name


def is_even(name: str) -> bool:
    """Halves the names, for files that must not ask about the same things."""
    return zlib.crc32(name.encode()) // 16 % 2 == 0
