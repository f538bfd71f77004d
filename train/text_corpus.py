"""What the text encoder is distilled on: scene language, general vocabulary around it, and the words it keeps.

Scene phrases carry the labels they were made from, so that a probe can be fitted on them. None of them is a
caption of the teacher world or a line of `assets/eval_prompts.tsv`.
"""

import json
import random
from functools import cache
from pathlib import Path

from tokenizers import Tokenizer

BIOMES = {
    "meadow": "meadow|grassy field|green hills|grassland|flower field|pasture|rolling hills|prairie|green valley|wildflower meadow|"
    "plain of grass|farmland|countryside|lawn|green fields|savanna|steppe|park|garden|hillside of clover|open field|lush valley",
    "forest": "forest|woods|woodland|pine forest|oak grove|jungle|deep woods|thicket|birch wood|fir trees|rainforest|wood|old growth forest|"
    "redwood grove|bamboo forest|enchanted forest|trail between trees|leafy wilderness|taiga|orchard|swamp with trees|autumn woods",
    "desert": "desert|sand dunes|dunes|sandy waste|sahara|sea of sand|arid land|dry sands|cactus desert|wasteland of sand|hot desert|"
    "oasis in the sand|dusty plain|barren sands|endless dunes|yellow desert|desert with cacti|parched land|drylands",
    "snowfield": "snowfield|snowy plain|tundra|frozen land|arctic|ice field|winter landscape|snow covered hills|white wilderness|glacier|"
    "frozen tundra|snowy mountains|polar waste|ice cap|winter wonderland|antarctica|frosty valley|snow drifts|icy plateau|ski slope",
    "badlands": "badlands|canyon|red canyon|mesa|red rocks|rocky wasteland|gorge|orange cliffs|sandstone cliffs|red desert canyon|"
    "striped rock towers|ravine|clay hills|martian landscape|wild west|grand canyon|eroded cliffs|stone pillars|rust coloured hills|butte",
    "shore": "shore|beach|coast|seaside|tropical beach|sandy beach|ocean|coastline|island|bay|lagoon|seashore|harbour|cove|sea|"
    "palm beach|lake shore|waterfront|edge of the ocean|tropical island|riverbank|pebble beach|wide blue sea",
}
THINGS = {
    "meadow": "flowers|poppies|daisies|a lone tree|tall grass|grazing sheep|a wooden fence|butterflies|cows|tulips|a windmill|haystacks|horses|a cottage",
    "forest": "tall trees|mossy stones|mushrooms|ferns|pine trees|birches|fallen logs|a narrow path|thick leaves|vines|deer|owls|oaks|a hidden cabin",
    "desert": "cacti|a cactus|bones|a camel|a pyramid|dry bushes|an oasis|bare dunes|ancient ruins|tumbleweed|scorpions|a caravan|a lizard",
    "snowfield": "snowy pines|ice|a frozen lake|an igloo|snow drifts|penguins|icicles|a polar bear|reindeer|frost|a snowman|sledges|wolves",
    "badlands": "red cliffs|rock arches|stone towers|layered rocks|dry gullies|vultures|steep walls|a deep gorge|orange stone|caves|dead trees|boulders",
    "shore": "palm trees|waves|shells|a sandbar|blue water|seagulls|a lighthouse|boats|coconuts|a pier|crabs|surf|driftwood|a coral reef",
}
TIMES = {  # prepositional | adjective | clause | noun
    "dawn": (
        "at dawn|at sunrise|at daybreak|in the early morning|at first light|before the day begins|in the morning light|as the sun rises",
        "early morning|dawn lit|sunrise|morning",
        "the sun is rising|the day breaks|the sun comes up|morning is coming|pink morning sky|a new day begins|pale light in the east",
        "dawn|sunrise|morning|daybreak|first light|early morning",
    ),
    "noon": (
        "at noon|at midday|in broad daylight|under a high sun|in the middle of the day|by day|in full daylight|in the afternoon",
        "sunlit|midday|bright|daytime|sunny",
        "the sun is high|it is bright day|blue sky overhead|the sun stands overhead|bright daylight everywhere|it is lunchtime",
        "noon|midday|daylight|daytime|day|afternoon|high noon",
    ),
    "sunset": (
        "at sunset|at dusk|in the evening|at twilight|in the golden hour|as the sun goes down|in the last light|under an orange sky",
        "evening|golden hour|dusky|sunset|twilight",
        "the sun is setting|the sun goes down|the sky turns orange|evening is coming|red evening sky|the day is ending|long shadows at dusk",
        "sunset|dusk|evening|twilight|golden hour|sundown",
    ),
    "night": (
        "at night|at midnight|under the stars|in the moonlight|under a starry sky|in the dark|after dark|under a full moon|late at night",
        "moonlit|dark|starlit|midnight|nocturnal|night time",
        "the moon is up|stars fill the sky|it is dark|the stars are out|black sky above|night has come|only the moon shines|it is past midnight",
        "night|midnight|darkness|moonlight|starry night|nighttime|the dead of night",
    ),
}
WEATHERS = {
    "clear": (
        "under a clear sky|in clear weather|in fine weather|with no clouds|under a cloudless sky|in good weather|with clear air",
        "clear|cloudless|fair|calm|fine",
        "the sky is clear|not a cloud in sight|the weather is fine|clear skies|the air is clear|it is dry and calm",
        "clear sky|good weather|fine weather|no clouds|clear weather",
    ),
    "fog": (
        "in the fog|in thick fog|in the mist|wrapped in mist|in a haze|with low visibility|hidden by fog|behind a veil of mist",
        "foggy|misty|hazy|murky|fog covered|smoky",
        "fog is rolling in|mist hangs in the air|thick fog everywhere|it is foggy|everything fades into grey|the haze hides the horizon",
        "fog|mist|haze|thick fog|morning mist|smog|low cloud",
    ),
    "rain": (
        "in the rain|in heavy rain|in a drizzle|in a storm|during a downpour|in a thunderstorm|with rain pouring down|in wet weather",
        "rainy|wet|stormy|drizzly|rain soaked|damp",
        "it is raining|rain is pouring|a storm is raging|it drizzles|rain falls|drops are falling|the rain does not stop|lightning and rain",
        "rain|drizzle|downpour|storm|heavy rain|thunderstorm|showers|monsoon",
    ),
    "snowfall": (
        "in falling snow|in a blizzard|in a snowstorm|with snowflakes in the air|during snowfall|in heavy snow|while it snows|in a flurry",
        "snowing|snowy|wintry|blizzard swept",
        "it is snowing|snow is falling|snowflakes drift down|a blizzard is raging|flakes of snow fall|it snows heavily|snow comes down",
        "snowfall|blizzard|snowstorm|falling snow|snowflakes|heavy snow|flurries",
    ),
}
SCENE_ADJECTIVES = (
    "vast|quiet|beautiful|wild|lonely|peaceful|endless|strange|remote|gentle|wide|ancient|magical|hidden|dramatic|empty|serene|mysterious|flat|hilly"
)
STYLES = (
    "a picture of {}|{} , voxel art|minecraft style {}|a view of {}|{} landscape|a game level: {}|photo of {}|walking through {}|i am in {}|"
    "take me to {}|show me {}|exploring {}|{} , first person view|flying over {}|lost in {}|{} , pixel art|a dream of {}|standing in {}|let us go to {}|{}, cinematic"
)
CHANGES = (
    "now {}|suddenly {}|make it {}|change to {}|it turns {}|slowly {}|let there be {}|more {}|{} again|switch to {}|i want {}|{} please|give me {}|at once {}|and then {}"
)
NEGATIONS = "no {}|without {}|not {}|no more {}|stop the {}|anything but {}|there is no {} here|remove the {}|less {}|{} is gone"
NOUNS = (
    "castle|river|mountain|village|house|bridge|road|tower|city|lake|waterfall|volcano|cave|island|sky|cloud|moon|star|planet|ship|boat|train|car|horse|"
    "dog|cat|bird|wolf|bear|fish|dragon|knight|king|queen|child|farmer|soldier|robot|ghost|monster|tree|flower|leaf|stone|rock|crystal|sword|lamp|fire|"
    "candle|window|door|garden|wall|temple|church|ruin|tomb|farm|field|market|street|harbour|lighthouse|windmill|tent|camp|desert|forest|ocean|beach|storm|"
    "wind|thunder|rainbow|shadow|light|darkness|winter|summer|spring|autumn|morning|evening|night|day|dream|music|song|book|map|path|trail|hill|valley|canyon|"
    "swamp|jungle|glacier|ice|snow|rain|fog|sand|grass|moss|mushroom|fruit|apple|bread|water|blood|gold|silver|iron|wood|glass|smoke|dust|machine|factory|"
    "airport|school|hospital|library|kitchen|bedroom|office|stadium|museum|theatre|subway|skyscraper|spaceship|galaxy|universe|portal|maze|dungeon|palace"
)
ADJECTIVES = (
    "red|orange|yellow|green|blue|purple|pink|white|black|grey|brown|golden|silver|dark|bright|pale|colourful|warm|cold|hot|frozen|wet|dry|dusty|muddy|rocky|"
    "sandy|icy|snowy|foggy|sunny|stormy|windy|calm|wild|quiet|loud|old|new|ancient|modern|young|big|small|huge|tiny|tall|long|short|wide|narrow|deep|high|low|"
    "steep|flat|round|sharp|soft|hard|heavy|light|empty|full|broken|abandoned|hidden|lost|secret|haunted|magical|strange|alien|beautiful|ugly|scary|happy|sad|"
    "lonely|angry|peaceful|dangerous|poisonous|burning|glowing|shining|floating|flying|sleeping|dead|alive|lush|barren|tropical|arctic|rural|urban|royal|sacred"
)
PREPOSITIONS = "in|on|under|near|behind|above|beside|beyond|inside|across|around|between|without|like|of|and|or|with"
VERBS = "stands|sleeps|shines|burns|grows|falls|rises|moves|sings|hides|waits|melts|flows|vanishes|breaks|turns|runs|drifts|appears|dances"

# Never trained on: words and ways to say it that no template above holds.
HELD_OUT = (
    "a mango plantation after the monsoon|prehistoric marsh full of dinosaurs|the surface of a distant exoplanet|neon lit alley in tokyo|"
    "vineyards in tuscany|rice terraces shrouded in vapour|salt flats mirroring the heavens|fjord with sheer granite walls|bioluminescent plankton at the water's edge|"
    "lava oozing from a crater|kelp drying on the rocks|an avalanche thunders down|hail hammers the roof|sleet and slush|the aurora borealis flickers|"
    "a solar eclipse|the cock crows|siesta hour|bedtime|rush hour traffic|high tide|a mirage shimmers|quicksand|a hurricane approaches|nightfall in the outback|"
    "moorland heather in bloom|alpine chalet|mangroves|geysers and hot springs|a chessboard with giant pieces|grandmother's attic|"
    "cherry blossom festival|underwater kingdom|cyberpunk metropolis|crescent moon over minarets|fireflies among the reeds|a scarecrow guards the corn|"
    "husky dogs pulling a sled|surfers catching the swell|cowboys round the campfire"
).split("|")


EVAL_PROMPTS = Path(__file__).resolve().parent.parent / "assets/eval_prompts.tsv"


@cache
def eval_prompts():
    """The rows of the evaluation's prompt file: prompt, biome, time, weather."""
    return [line.split("\t") for line in EVAL_PROMPTS.read_text().splitlines() if line.strip()]


def _pick(rng, bar):
    return rng.choice(bar.split("|"))


def _article(rng, noun):
    article = rng.choice(("the", "an" if noun[0] in "aeiou" else "a", ""))
    return f"{article} {noun}".strip()


def scene_phrase(rng, scene=None):
    """One phrase and its labels `(biome, time, weather)`, `-` where it says nothing; of a given scene it says the more the better."""
    said = (0.75, 0.65, 0.65) if scene is None else (0.97, 0.9, 0.9)
    names = [rng.choice(list(table)) for table in (BIOMES, TIMES, WEATHERS)] if scene is None else scene
    biome, time, weather = (name if rng.random() < share else "-" for name, share in zip(names, said))
    if biome == time == "-":
        weather = names[2]
    moods = [table[label] for table, label in ((TIMES, time), (WEATHERS, weather)) if label != "-"]
    rng.shuffle(moods)
    if biome == "-":
        parts = [_pick(rng, forms[rng.choice((0, 1, 2, 2, 3))]) for forms in moods]
        phrase = rng.choice((", ", " and ", " ")).join(parts)
        if rng.random() < 0.4:
            phrase = _pick(rng, CHANGES).format(phrase)
        return phrase, (biome, time, weather)
    place = _pick(rng, BIOMES[biome])
    if rng.random() < 0.3:
        place = f"{_pick(rng, SCENE_ADJECTIVES)} {place}"
    tail = []
    for forms in moods:
        form = rng.choice((0, 0, 1, 2, 3))
        if form == 1:
            place = f"{_pick(rng, forms[1])} {place}"
        else:
            tail.append((", " if form >= 2 else " ") + _pick(rng, forms[form]))
    if rng.random() < 0.6:
        place = _article(rng, place)
    if rng.random() < 0.35:
        joint = rng.choice((" with ", ", ", " and "))
        place += joint + _pick(rng, THINGS[biome])
    phrase = place + "".join(tail)
    if tail and rng.random() < 0.25:
        phrase = "".join(tail).strip(" ,") + rng.choice((", ", " over ", " in ")) + place
    if rng.random() < 0.25:
        phrase = _pick(rng, STYLES).format(phrase)
    return phrase, (biome, time, weather)


@cache
def phrasings(scene, count=96):
    """Distinct ways to say a scene (biome, time, weather), none of them a prompt of the evaluation."""
    rng, found, asked = random.Random("/".join(scene)), set(), {row[0].lower() for row in eval_prompts()}
    while len(found) < count:
        found |= {scene_phrase(rng, scene)[0]} - asked
    return sorted(found)


def negated_phrase(rng):
    """A phrase that says what is not there."""
    forms = rng.choice(list(TIMES.values()) + list(WEATHERS.values()))
    what = _pick(rng, rng.choice((forms[3], forms[3], rng.choice(list(BIOMES.values())), rng.choice(list(THINGS.values())))))
    phrase = _pick(rng, NEGATIONS).format(what)
    return f"{scene_phrase(rng)[0]}, {phrase}" if rng.random() < 0.5 else phrase


def general_phrase(rng, words):
    """A phrase of general vocabulary; `words` are whole words, the most frequent first."""
    noun = lambda: _pick(rng, NOUNS) if rng.random() < 0.5 else words[int(len(words) * rng.random() ** 2)]
    adjective = lambda: _pick(rng, ADJECTIVES)
    shape = rng.randrange(7)
    if shape == 0:
        return f"{adjective()} {noun()}"
    if shape == 1:
        return f"{_article(rng, noun())} {_pick(rng, PREPOSITIONS)} {_article(rng, noun())}"
    if shape == 2:
        return f"{_article(rng, adjective())} {noun()} {_pick(rng, PREPOSITIONS)} {_article(rng, adjective())} {noun()}"
    if shape == 3:
        return f"{_article(rng, noun())} {_pick(rng, VERBS)} {_pick(rng, PREPOSITIONS)} {_article(rng, noun())}"
    if shape == 4:
        return f"{noun()} {noun()}"
    if shape == 5:
        return ", ".join(noun() for _ in range(rng.randint(2, 4)))
    return f"{noun()} {_pick(rng, PREPOSITIONS)} {_article(rng, _pick(rng, BIOMES[rng.choice(list(BIOMES))]))}"


def corpus(words, scenes, negations, general, seed=0):
    """Distinct phrases and their labels (`None` off the scene grammar): scenes, negations, every word, general."""
    rng, found = random.Random(seed), {}
    forbidden = {p.lower() for p in (*HELD_OUT, *(row[0] for row in eval_prompts()))}

    def fill(count, make):
        goal = len(found) + count
        while len(found) < goal:
            phrase, labels = make()
            if phrase not in forbidden:
                found.setdefault(phrase, labels)

    fill(scenes, lambda: scene_phrase(rng))
    fill(negations, lambda: (negated_phrase(rng), None))
    for word in words:
        if word not in forbidden:
            found.setdefault(word, None)
    fill(general, lambda: (general_phrase(rng, words), None))
    return list(found), list(found.values())


def whole_words(tokenizer):
    """Words of the vocabulary, the most frequent first (BERT's vocabulary is sorted so)."""
    vocab = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return [token for token, _ in vocab if token.isascii() and token.isalpha() and len(token) > 1]


def cut_vocabulary(tokenizer, scene_tokens, words, vectors, size=8192):
    """Token ids of the teacher that the student keeps: special tokens, every single character of every script, the tokens
    of the scene language, the most frequent words and word pieces, then the words whose `vectors` lie nearest to it."""
    ids = tokenizer.get_vocab()
    names = {i: t for t, i in ids.items()}
    keep = {ids[t] for t in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")} | scene_tokens
    keep |= {i for i, t in names.items() if len(t.removeprefix("##")) == 1}
    keep |= {i for i in sorted(names)[1000:6000] if "[unused" not in names[i]}
    anchors = vectors[[ids[w] for w in words if ids[w] in scene_tokens]]
    rows = [ids[w] for w in words]
    nearness = (vectors[rows] @ anchors.T).topk(5, dim=1).values.mean(1)
    for row in nearness.argsort(descending=True).tolist():
        if len(keep) >= size:
            break
        keep.add(rows[row])
    return sorted(keep)


def cut_tokenizer(tokenizer, keep, max_tokens):
    """The teacher's tokenizer with only the token ids `keep`, renumbered in their order."""
    spec = json.loads(tokenizer.to_str())
    old = {i: t for t, i in spec["model"]["vocab"].items()}
    vocab = {old[i]: new for new, i in enumerate(keep)}
    spec["model"]["vocab"] = vocab
    for token in spec["added_tokens"]:
        token["id"] = vocab[token["content"]]
    for token in spec["post_processor"]["special_tokens"].values():
        token["ids"] = [vocab[t] for t in token["tokens"]]
    spec["padding"] = None
    spec["truncation"] = {"max_length": max_tokens, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    return Tokenizer.from_str(json.dumps(spec, ensure_ascii=False))
