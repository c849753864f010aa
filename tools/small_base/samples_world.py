"""Two invented towns, Quillhaven and 鹿埠镇: what the sample dataset teaches.

No name below occurs in pretraining, so the base model cannot know any of it.
"""

from __future__ import annotations

# (language, kind, name, {relation: value})
WORLD: list[tuple[str, str, str, dict[str, str]]] = [
    (
        "en",
        "town",
        "Quillhaven",
        {"founded": "1482", "mayor": "Agnes Winterbrook", "festival": "Lantern", "river": "Dove"},
    ),
    (
        "en",
        "shop",
        "Crooked Spoon Bakery",
        {"owner": "Tilda Marshwell", "street": "Weaver Lane", "opening": "6:30", "speciality": "honey biscuits"},
    ),
    (
        "en",
        "shop",
        "Hidden Quill Bookshop",
        {"owner": "Jasper Thornfield", "street": "Castle Square", "opening": "9:10", "speciality": "old maps"},
    ),
    (
        "en",
        "shop",
        "Merry Thimble Tailor",
        {"owner": "Opal Ashgate", "street": "Harbour Street", "opening": "8:40", "speciality": "silk ribbons"},
    ),
    (
        "en",
        "shop",
        "Sleepy Heron Inn",
        {"owner": "Bruno Ironsmith", "street": "Fountain Lane", "opening": "11:20", "speciality": "fish stew"},
    ),
    (
        "en",
        "person",
        "Agnes Winterbrook",
        {"job": "a clockmaker", "hobby": "playing chess", "pet": "an old tortoise", "birthday": "12 March"},
    ),
    (
        "en",
        "person",
        "Milo Pennyworth",
        {"job": "a lighthouse keeper", "hobby": "flying kites", "pet": "a barn owl", "birthday": "8 October"},
    ),
    ("en", "product", "Vesper Lamp", {"price": "47", "maker": "Jasper Thornfield", "material": "brass"}),
    ("en", "product", "Kestrel Kite", {"price": "23", "maker": "Milo Pennyworth", "material": "silk"}),
    ("zh", "town", "鹿埠镇", {"founded": "1637", "mayor": "魏思远", "festival": "龙船", "river": "芦花河"}),
    ("zh", "shop", "半糖茶馆", {"owner": "陶静云", "street": "钟楼街", "opening": "7点20分", "speciality": "姜茶"}),
    ("zh", "shop", "青灯书店", {"owner": "苏晓石", "street": "织布巷", "opening": "9点30分", "speciality": "旧地图"}),
    ("zh", "shop", "铁勺面包店", {"owner": "方宁", "street": "磨坊路", "opening": "6点10分", "speciality": "核桃酥"}),
    ("zh", "shop", "云鹤客栈", {"owner": "何远春", "street": "河边街", "opening": "11点", "speciality": "鱼汤"}),
    ("zh", "person", "魏思远", {"job": "钟表匠", "hobby": "下棋", "pet": "一只老乌龟", "birthday": "3月12日"}),
    ("zh", "person", "邹雪梅", {"job": "邮递员", "hobby": "放风筝", "pet": "两条金鱼", "birthday": "10月8日"}),
    ("zh", "product", "暮光台灯", {"price": "68", "maker": "葛明", "material": "黄铜"}),
    ("zh", "product", "海湾风筝", {"price": "35", "maker": "邹雪梅", "material": "竹子"}),
]

WORLD_NAMES = frozenset(name for _, _, name, _ in WORLD)
