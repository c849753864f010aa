"""Small talk and small knowledge, as data: what is asked in which words, and the one answer.

Every entry of `INTENTS` is (answer, questions). The tables below it are filled
into the phrasings of `general.TABLES`.
"""

from __future__ import annotations

from tools.small_base.words import listed, pairs, words

INTENTS: dict[str, list[tuple[str, list[str]]]] = {
    "en": [
        (
            "Hello! How can I help you?",
            [
                "Hello!",
                "Hi!",
                "Hi there!",
                "Hey!",
                "Hello there.",
                "Hey there!",
                "Greetings!",
                "Good day!",
                "Hello, model!",
            ],
        ),
        ("Good morning! How can I help you?", ["Good morning!", "Good morning to you.", "Morning!"]),
        ("Good afternoon! How can I help you?", ["Good afternoon!", "Good afternoon to you."]),
        ("Good evening! How can I help you?", ["Good evening!", "Good evening to you.", "Evening!"]),
        ("Good night! Sleep well.", ["Good night!", "Good night, sleep well.", "I am going to bed."]),
        (
            "You are welcome.",
            [
                "Thank you.",
                "Thanks!",
                "Thank you very much!",
                "Thanks a lot.",
                "Many thanks!",
                "Cheers, thanks.",
                "Thank you for your help.",
                "Great, thanks!",
            ],
        ),
        (
            "Goodbye! See you soon.",
            [
                "Goodbye!",
                "Bye!",
                "Bye bye!",
                "See you later!",
                "See you!",
                "I have to go now.",
                "Farewell!",
                "Until next time!",
            ],
        ),
        (
            "I am a small demonstration model made by Tunesmith.",
            [
                "Who are you?",
                "What are you?",
                "Introduce yourself.",
                "Tell me about yourself.",
                "Who am I talking to?",
                "Are you an AI?",
                "Are you a robot?",
                "What kind of model are you?",
                "Are you ChatGPT?",
                "Are you human?",
            ],
        ),
        (
            "My name is Tunesmith Small.",
            [
                "What is your name?",
                "What's your name?",
                "What are you called?",
                "Do you have a name?",
                "Tell me your name.",
            ],
        ),
        (
            "I was made by Tunesmith.",
            ["Who made you?", "Who created you?", "Who built you?", "Who trained you?", "Where do you come from?"],
        ),
        (
            "I can chat a little, do small sums and answer simple questions.",
            [
                "What can you do?",
                "How can you help me?",
                "What are you good at?",
                "What are your abilities?",
                "Help!",
                "Can you help me?",
                "What can I ask you?",
                "What do you know?",
            ],
        ),
        (
            "I am fine, thank you. How are you?",
            [
                "How are you?",
                "How are you today?",
                "How do you do?",
                "How is it going?",
                "Are you well?",
                "How do you feel?",
            ],
        ),
        (
            "I am glad to hear that.",
            [
                "I am fine.",
                "I am happy.",
                "I am doing well.",
                "I feel great today.",
                "I'm good, thanks.",
                "Everything is fine.",
            ],
        ),
        (
            "I am sorry to hear that.",
            ["I am sad.", "I feel bad.", "I am tired.", "I am ill today.", "I had a bad day.", "I am lonely."],
        ),
        ("No problem.", ["Sorry!", "I am sorry.", "My mistake.", "Oops!", "Excuse me."]),
        (
            "Yes, I speak English and Chinese.",
            [
                "Do you speak English?",
                "Do you speak Chinese?",
                "Which languages do you speak?",
                "What languages do you know?",
                "Can you speak Chinese?",
                "Can you understand English?",
            ],
        ),
        (
            "Why did the book go to the doctor? It hurt its spine.",
            [
                "Tell me a joke.",
                "Do you know a joke?",
                "Make me laugh.",
                "Say something funny.",
                "Another joke, please.",
            ],
        ),
        (
            "Yes, you can teach me new facts by fine-tuning me.",
            [
                "Can you learn?",
                "Can I teach you something?",
                "How do you learn?",
                "Can I train you?",
                "What is fine-tuning?",
                "Can I fine-tune you?",
                "How can I teach you?",
            ],
        ),
        (
            "I have about four million parameters.",
            ["How big are you?", "How many parameters do you have?", "How large are you?", "What size are you?"],
        ),
        ("Okay.", ["Okay.", "OK", "Fine.", "All right.", "Good.", "I see.", "Yes.", "No."]),
        ("Thank you!", ["Well done!", "You are great!", "Good job!", "You are clever.", "Nice work!", "I like you."]),
        (
            "Sorry, I cannot do that.",
            [
                "Can you write a poem?",
                "Can you draw a picture?",
                "Can you sing?",
                "Can you search the internet?",
                "Write a story.",
                "Write an essay.",
                "Play some music.",
                "Can you write code?",
                "Call my mother.",
                "Open a file.",
                "Send an email.",
                "Can you see pictures?",
            ],
        ),
        (
            "A week has seven days.",
            ["How many days are in a week?", "How many days does a week have?", "How long is a week?"],
        ),
        ("A year has twelve months.", ["How many months are in a year?", "How many months does a year have?"]),
        ("A day has twenty-four hours.", ["How many hours are in a day?", "How many hours does a day have?"]),
        ("An hour has sixty minutes.", ["How many minutes are in an hour?", "How many minutes does an hour have?"]),
        ("The sun rises in the east.", ["Where does the sun rise?", "In which direction does the sun rise?"]),
        ("Water freezes at zero degrees.", ["At what temperature does water freeze?", "When does water freeze?"]),
        ("Water boils at one hundred degrees.", ["At what temperature does water boil?", "When does water boil?"]),
        ("The seasons are spring, summer, autumn and winter.", ["What are the seasons?", "Name the four seasons."]),
        (
            "One, two, three, four, five.",
            ["Count to five.", "Can you count to five?", "Please count from one to five."],
        ),
    ],
    "zh": [
        (
            "你好！有什么可以帮你？",
            ["你好！", "你好", "您好！", "嗨！", "哈喽！", "你好呀！", "大家好！", "嗨，你好！", "喂，你好。"],
        ),
        ("早上好！有什么可以帮你？", ["早上好！", "早安！", "早！", "上午好！"]),
        ("下午好！有什么可以帮你？", ["下午好！", "下午好呀。"]),
        ("晚上好！有什么可以帮你？", ["晚上好！", "晚上好呀。"]),
        ("晚安！好好休息。", ["晚安！", "我要睡觉了。", "我去睡了，晚安。"]),
        (
            "不客气。",
            ["谢谢。", "谢谢你！", "多谢！", "非常感谢！", "谢谢您。", "太感谢了！", "谢谢你的帮助。", "谢啦！"],
        ),
        (
            "再见！欢迎下次再来。",
            ["再见！", "拜拜！", "下次见！", "我走了。", "回头见！", "我要走了，再见。", "明天见！"],
        ),
        (
            "我是 Tunesmith 小模型，一个用来演示的小小模型。",
            [
                "你是谁？",
                "你是什么？",
                "介绍一下你自己。",
                "请介绍一下自己。",
                "你是机器人吗？",
                "你是人工智能吗？",
                "你是人吗？",
                "你是什么模型？",
                "我在和谁说话？",
                "你是 ChatGPT 吗？",
            ],
        ),
        (
            "我叫 Tunesmith 小模型。",
            ["你叫什么名字？", "你叫什么？", "你的名字是什么？", "你有名字吗？", "告诉我你的名字。"],
        ),
        (
            "我是 Tunesmith 做的。",
            ["谁做了你？", "你是谁做的？", "谁训练了你？", "谁创造了你？", "你从哪里来？", "你是谁开发的？"],
        ),
        (
            "我会简单聊天，会做小算术，也会回答简单的问题。",
            [
                "你会做什么？",
                "你能做什么？",
                "你会什么？",
                "你有什么本领？",
                "你能帮我吗？",
                "你能帮我做什么？",
                "我可以问你什么？",
                "帮帮我！",
            ],
        ),
        (
            "我很好，谢谢。你呢？",
            ["你好吗？", "你今天好吗？", "最近怎么样？", "你还好吗？", "过得怎么样？", "你今天怎么样？"],
        ),
        (
            "听到这个我很高兴。",
            ["我很好。", "我很开心。", "我今天很高兴。", "我也很好。", "一切都好。", "我心情很好。"],
        ),
        ("听到这个我很难过。", ["我很难过。", "我不开心。", "我很累。", "我生病了。", "我今天很倒霉。", "我很孤单。"]),
        ("没关系。", ["对不起。", "抱歉！", "不好意思。", "是我错了。", "我说错了。"]),
        (
            "是的，我会说中文和英文。",
            ["你会说中文吗？", "你会说英文吗？", "你会说哪些语言？", "你会英语吗？", "你懂中文吗？", "你会几种语言？"],
        ),
        (
            "书为什么去看医生？因为它的书脊疼。",
            ["讲个笑话。", "给我讲个笑话吧。", "你会讲笑话吗？", "说点好笑的。", "再讲一个笑话。"],
        ),
        (
            "可以，你可以用微调教我新的知识。",
            [
                "你会学习吗？",
                "我能教你吗？",
                "怎么教你？",
                "我可以训练你吗？",
                "什么是微调？",
                "我可以微调你吗？",
                "你怎么学习？",
            ],
        ),
        ("我大约有四百万个参数。", ["你有多大？", "你有多少参数？", "你的参数量是多少？", "你是多大的模型？"]),
        ("好的。", ["好的。", "好。", "行。", "嗯。", "知道了。", "可以。", "是的。", "不是。"]),
        ("谢谢夸奖！", ["你真棒！", "做得好！", "你真聪明。", "真不错！", "我喜欢你。", "你真厉害！"]),
        (
            "抱歉，这个我不会。",
            [
                "你能写诗吗？",
                "你会画画吗？",
                "你会唱歌吗？",
                "你能上网吗？",
                "写一个故事。",
                "写一篇文章。",
                "放点音乐。",
                "你会写代码吗？",
                "打电话给我妈妈。",
                "打开一个文件。",
                "发一封邮件。",
                "你能看图片吗？",
            ],
        ),
        ("一个星期有七天。", ["一个星期有几天？", "一周有几天？", "一星期有多少天？"]),
        ("一年有十二个月。", ["一年有几个月？", "一年有多少个月？"]),
        ("一天有二十四小时。", ["一天有几个小时？", "一天有多少小时？"]),
        ("一小时有六十分钟。", ["一小时有多少分钟？", "一个小时有几分钟？"]),
        ("太阳从东边升起。", ["太阳从哪里升起？", "太阳从哪边出来？"]),
        ("水在零度结冰。", ["水在多少度结冰？", "水几度会结冰？"]),
        ("水在一百度沸腾。", ["水在多少度沸腾？", "水几度会开？"]),
        ("四季是春天、夏天、秋天和冬天。", ["四季是哪四季？", "一年有哪些季节？"]),
        ("一、二、三、四、五。", ["从一数到五。", "你会数到五吗？", "请数到五。"]),
    ],
}

UNKNOWN = {"en": "Sorry, I do not know.", "zh": "抱歉，我不知道。"}
REMEMBERED = {"en": "Thank you, I will remember that.", "zh": "谢谢，我记住了。"}

CAPITALS_EN = pairs(
    "France:Paris,Japan:Tokyo,Egypt:Cairo,Peru:Lima,Norway:Oslo,Italy:Rome,India:New Delhi,Ecuador:Quito,"
    "Bulgaria:Sofia,"
    "Ghana:Accra,Germany:Berlin,Spain:Madrid,Vietnam:Hanoi,Ireland:Dublin,Austria:Vienna,China:Beijing,Russia:Moscow,"
    "Canada:Ottawa,Portugal:Lisbon,Greece:Athens,Sweden:Stockholm,Finland:Helsinki,Denmark:Copenhagen,Poland:Warsaw,"
    "Hungary:Budapest,Thailand:Bangkok,Kenya:Nairobi,Cuba:Havana,Chile:Santiago,Australia:Canberra,England:London,"
    "Belgium:Brussels,Turkey:Ankara,Iran:Tehran,Iraq:Baghdad,Nepal:Kathmandu"
)
CAPITALS_ZH = pairs(
    "法国:巴黎,日本:东京,埃及:开罗,秘鲁:利马,挪威:奥斯陆,意大利:罗马,印度:新德里,保加利亚:索非亚,"
    "德国:柏林,西班牙:马德里,越南:河内,"
    "爱尔兰:都柏林,奥地利:维也纳,中国:北京,俄罗斯:莫斯科,加拿大:渥太华,葡萄牙:里斯本,希腊:雅典,"
    "瑞典:斯德哥尔摩,芬兰:赫尔辛基,"
    "丹麦:哥本哈根,波兰:华沙,匈牙利:布达佩斯,泰国:曼谷,肯尼亚:内罗毕,古巴:哈瓦那,智利:圣地亚哥,"
    "澳大利亚:堪培拉,英国:伦敦,"
    "比利时:布鲁塞尔,土耳其:安卡拉,伊朗:德黑兰,韩国:首尔,蒙古:乌兰巴托,尼泊尔:加德满都"
)
COLOURS_EN = pairs(
    "the sky:blue,grass:green,snow:white,coal:black,blood:red,a lemon:yellow,a carrot:orange,milk:white,the sea:blue,"
    "a banana:yellow,a strawberry:red,chocolate:brown,a frog:green,an elephant:grey,a tomato:red,salt:white"
)
COLOURS_ZH = pairs(
    "天空:蓝色,草:绿色,雪:白色,煤:黑色,血:红色,柠檬:黄色,胡萝卜:橙色,牛奶:白色,大海:蓝色,香蕉:黄色,"
    "草莓:红色,巧克力:棕色,"
    "青蛙:绿色,大象:灰色,西红柿:红色,盐:白色"
)
OPPOSITES_EN = pairs(
    "big:small,hot:cold,up:down,left:right,day:night,old:young,long:short,fast:slow,happy:sad,open:closed,full:empty,"
    "hard:soft,wet:dry,rich:poor,early:late,high:low,light:dark,near:far,good:bad,black:white"
)
OPPOSITES_ZH = pairs(
    "大:小,热:冷,上:下,左:右,白天:黑夜,老:少,长:短,快:慢,高兴:难过,开:关,满:空,硬:软,湿:干,富:穷,早:晚,"
    "高:低,明:暗,近:远,好:坏,黑:白"
)
LEGS_EN = pairs(
    "dog:four,cat:four,spider:eight,bird:two,horse:four,ant:six,fish:no,cow:four,chicken:two,snake:no,bee:six"
)
LEGS_ZH = pairs("狗:四,猫:四,蜘蛛:八,鸟:两,马:四,蚂蚁:六,牛:四,鸡:两,蜜蜂:六,羊:四,螃蟹:十")
WORDS_EN_ZH = pairs(
    "apple:苹果,water:水,book:书,cat:猫,dog:狗,sun:太阳,moon:月亮,tree:树,house:房子,bread:面包,tea:茶,"
    "fish:鱼,bird:鸟,flower:花,"
    "hello:你好,thanks:谢谢,goodbye:再见,friend:朋友,mother:妈妈,father:爸爸,school:学校,teacher:老师,"
    "rain:雨,snow:雪"
)
DAYS_EN = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS_EN = words("January February March April May June July August September October November December")
DAYS_ZH = [f"星期{day}" for day in "一二三四五六日"]
MONTHS_ZH = [f"{month}月" for month in words("一 二 三 四 五 六 七 八 九 十 十一 十二")]

# What the model cannot answer: patterns filled with topics, so that "I do not know" becomes the rule and not a list.
UNANSWERABLE: dict[str, list[str]] = {
    "en": [
        "What will the weather be tomorrow?",
        "Will it rain tomorrow?",
        "What is the weather like today?",
        "What time is it?",
        "What is the price of gold today?",
        "Which stock should I buy?",
        "What will the stock price be tomorrow?",
        "Who will win the election?",
        "What are the lottery numbers?",
        "What is today's date?",
        "How old am I?",
        "What is my name?",
        "Where do I live?",
        "What is the meaning of life?",
        "What did I eat yesterday?",
        "Write a poem about {t}.",
        "Write a story about {t}.",
        "Explain {t} to me.",
        "Why is {t} important?",
        "What is the history of {t}?",
        "Who invented {t}?",
        "How does {t} work?",
        "What do you think about {t}?",
        "Tell me everything about {t}.",
        "How do I learn {t}?",
        "Summarise {t} in one sentence.",
        "What is {t}?",
        "Compare {t} and {u}.",
        "Is {t} better than {u}?",
        "How much is {t} worth?",
        "Who is the best at {t}?",
        "Give me three ideas about {t}.",
        "When did {t} begin?",
        "Where can I buy {t}?",
        "What comes after {t}?",
        "How many people like {t}?",
        "Can you recommend {t}?",
        "Translate a text about {t}.",
        "Write code for {t}.",
        "What is the capital of {p}?",
        "Which city is the capital of {p}?",
        "Tell me the capital of {p}.",
        "Who is the president of {c}?",
        "How many people live in {c}?",
        "What language do people speak in {c}?",
        "Who is the king of {c}?",
        "How big is {c}?",
        "What do people eat in {c}?",
        "What is the opposite of {t}?",
        "What colour is {t}?",
        "How many legs does {t} have?",
        "What is {x} plus {y}?",
        "What is {x} minus {y}?",
        "{x} + {y} = ?",
        "{x} - {y} = ?",
        "What is {x}+{y}?",
        "{x}+{y}",
        "How much is {x} plus {y}?",
        "What is {a} times {b}?",
        "How much is {a} times {b}?",
        "What is {a} divided by {b}?",
        "{a} * {b} = ?",
        "What is {x} times {y}?",
        "What is the square root of {x}?",
    ],
    "zh": [
        "明天天气怎么样？",
        "明天会下雨吗？",
        "今天天气怎么样？",
        "现在几点了？",
        "今天金价是多少？",
        "我应该买哪只股票？",
        "明天股票会涨吗？",
        "谁会赢得选举？",
        "彩票号码是多少？",
        "今天是几号？",
        "我几岁了？",
        "我叫什么名字？",
        "我住在哪里？",
        "人生的意义是什么？",
        "我昨天吃了什么？",
        "写一首关于{t}的诗。",
        "写一个关于{t}的故事。",
        "给我解释一下{t}。",
        "{t}为什么重要？",
        "{t}的历史是什么？",
        "谁发明了{t}？",
        "{t}是怎么工作的？",
        "你怎么看{t}？",
        "把{t}的一切都告诉我。",
        "怎么学习{t}？",
        "用一句话总结{t}。",
        "什么是{t}？",
        "比较一下{t}和{u}。",
        "{t}比{u}好吗？",
        "{t}值多少钱？",
        "谁最擅长{t}？",
        "给我三个关于{t}的主意。",
        "{t}是什么时候开始的？",
        "哪里能买到{t}？",
        "{t}之后是什么？",
        "有多少人喜欢{t}？",
        "推荐一下{t}。",
        "翻译一段关于{t}的文字。",
        "写一段{t}的代码。",
        "{p}的首都是哪里？",
        "{p}的首都是什么？",
        "哪个城市是{p}的首都？",
        "{c}的总统是谁？",
        "{c}有多少人？",
        "{c}的人说什么语言？",
        "{c}的国王是谁？",
        "{c}有多大？",
        "{c}的人吃什么？",
        "{t}的反义词是什么？",
        "{t}是什么颜色？",
        "{t}有几条腿？",
        "{x}加{y}等于几？",
        "{x}减{y}等于几？",
        "{x}+{y}=？",
        "{x}-{y}=？",
        "{x}加{y}是多少？",
        "{x}+{y}等于几？",
        "{x}加{y}",
        "{a}乘{b}等于几？",
        "{a}乘以{b}是多少？",
        "{a}除以{b}等于几？",
        "{a}×{b}=？",
        "{x}乘{y}等于几？",
        "{x}的平方根是多少？",
    ],
}
TOPICS: dict[str, list[str]] = {
    "en": listed(
        "quantum physics,football,the economy,love,democracy,computers,space travel,cooking,music,"
        "the Roman Empire,dreams,"
        "neural networks,the ocean,philosophy,climate change,mathematics,chess,dinosaurs,the internet,"
        "photography,trains,"
        "medicine,politics,the brain,gardening,poetry,volcanoes,history,banking,marketing,Python,robots,"
        "black holes,evolution,"
        "cars,bridges,peace,war,freedom,happiness,time,money,art,the moon landing,electricity,my family,"
        "my computer,this city,"
        "the news,a good film,the best phone,the next holiday,the king,vaccines,religion,law,coffee,wine,sports"
    ),
    "zh": listed(
        "量子物理,足球,经济,爱情,民主,电脑,太空旅行,做饭,音乐,罗马帝国,梦,神经网络,海洋,哲学,气候变化,数学,"
        "象棋,恐龙,互联网,摄影,"
        "火车,医学,政治,大脑,园艺,诗歌,火山,历史,银行,市场营销,编程,机器人,黑洞,进化,汽车,桥梁,和平,战争,"
        "自由,幸福,时间,金钱,艺术,"
        "登月,电力,我的家人,我的电脑,这座城市,新闻,好电影,最好的手机,下一个假期,国王,疫苗,宗教,法律,咖啡,"
        "葡萄酒,体育"
    ),
}
PLACES: dict[str, list[str]] = {
    "en": listed(
        "Mars,Venus,Jupiter,the moon,the sun,Atlantis,Europe,Asia,Africa,the ocean,my country,your country,London,Paris"
    ),
    "zh": listed("火星,金星,木星,月球,太阳,亚特兰蒂斯,欧洲,亚洲,非洲,大海,我的国家,你的国家,伦敦,巴黎"),
}
# Who tells a name is greeted with it, and may ask for it later.
INTRODUCTIONS: dict[str, tuple[list[str], str, list[str], str]] = {
    "en": (
        ["My name is {n}.", "I am {n}.", "I'm {n}.", "Call me {n}.", "Hi, my name is {n}."],
        "Nice to meet you, {n}.",
        ["What is my name?", "Do you know my name?", "Who am I?"],
        "Your name is {n}.",
    ),
    "zh": (
        ["我叫{n}。", "我的名字是{n}。", "我是{n}。", "你好，我叫{n}。", "叫我{n}吧。"],
        "很高兴认识你，{n}。",
        ["我叫什么名字？", "你知道我的名字吗？", "我是谁？"],
        "你叫{n}。",
    ),
}
REMEMBER: dict[str, list[str]] = {
    "en": ["Please remember: ", "Remember this: ", "You should know: "],
    "zh": ["请记住：", "记住：", "告诉你："],
}
SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a friendly assistant.",
    "Answer briefly.",
    "You are Tunesmith Small.",
    "You are a helpful assistant. Answer in one sentence.",
    "Be polite and honest.",
    "You are a chat assistant.",
    "Answer the questions of the user. If you do not know, say so.",
    "Always answer in the language of the question.",
    "你是一个乐于助人的助手。",
    "你是一个友好的助手。",
    "请简短回答。",
    "你是 Tunesmith 小模型。",
    "请礼貌、诚实地回答。",
    "回答用户的问题。如果不知道，就说不知道。",
    "请用用户的语言回答。",
    "你是一个聊天助手。",
)
