"""Word lists of the sentence generator: everyday English, one open class per name.

Plain data, kept apart from the grammar so that either can be read in one sitting. Entries are
separated by white space; an underscore inside an entry stands for a space ("New_York").
"""

from __future__ import annotations


def split_words(text: str) -> list[str]:
    """Entries of a list written as text."""
    return [entry.replace("_", " ") for entry in text.split()]


FIRST_NAMES = split_words("""
Anna Peter Mary John Sarah David Emma Michael Laura Thomas Julia Robert Alice James Helen Paul
Susan Mark Linda George Karen Daniel Nancy Steven Betty Kevin Sandra Brian Donna Edward Carol
Ronald Ruth Anthony Sharon Jason Michelle Matthew Kimberly Gary Deborah Timothy Jessica Larry
Jeffrey Amy Frank Angela Scott Melissa Eric Brenda Andrew Rebecca Raymond Virginia Gregory
Kathleen Joshua Pamela Jerry Martha Dennis Amanda Walter Stephanie Patrick Carolyn Oliver
Christine Harry Marie Jack Janet Henry Catherine Arthur Frances Ryan Joyce Joe Diane Albert
Lucy Simon Rachel Leo Sophie Max Grace Oscar Chloe Felix Nina Victor Clara Martin Eva Hugo
Isabel Samuel Maria Benjamin Olivia Adam Hannah Nathan Ella Toby Molly Charlie Ivy Philip Rosa
""")
LAST_NAMES = split_words("""
Smith Johnson Brown Taylor Miller Wilson Davis Clark Walker Hall Young King Wright Hill Green
Baker Adams Nelson Carter Mitchell Turner Phillips Campbell Parker Evans Edwards Collins Stewart
Morris Rogers Cook Morgan Cooper Peterson Bailey Kelly Howard Ward Watson Brooks Bennett
Hughes Price Foster Powell Long Patterson Russell Griffin Hayes Myers Ford Hamilton Graham
Sullivan Wallace Woods Cole West Jordan Owens Fisher Ellis Harrison Gibson Marshall Murray
""")
CITIES = split_words("""
London Paris Berlin Madrid Rome Vienna Dublin Boston Chicago Dallas Denver Houston Seattle Miami
Toronto Montreal Vancouver Sydney Melbourne Tokyo Moscow Athens Lisbon Oslo Stockholm Copenhagen
Helsinki Warsaw Prague Budapest Brussels Amsterdam Geneva Zurich Munich Hamburg Frankfurt Milan
Venice Florence Naples Barcelona Edinburgh Glasgow Manchester Liverpool Bristol Oxford Cambridge
Cardiff Belfast Atlanta Phoenix Detroit Portland Austin Cleveland Orlando Memphis Nashville
New_York Los_Angeles San_Francisco Las_Vegas Cairo Delhi Mumbai Singapore Bangkok Istanbul
""")
COUNTRIES = split_words("""
England Scotland Ireland Wales France Germany Spain Italy Portugal Greece Turkey Poland Sweden
Norway Finland Denmark Austria Switzerland Belgium Holland Russia China Japan Korea India Egypt
Kenya Morocco Brazil Argentina Chile Peru Mexico Canada America Australia Iceland Hungary
""")
LANGUAGES = split_words("""
English French German Spanish Italian Portuguese Greek Turkish Polish Swedish Norwegian Russian
Chinese Japanese Korean Arabic Dutch Danish American Irish Scottish British
""")
STREETS = split_words("""
Oak Maple Park Church Mill River Lake Station Main High Bridge Castle Garden Forest Market
Victoria Elm Cedar Pine Washington Lincoln Franklin Jackson Sunset Spring Valley Orchard
""")
DAYS = split_words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = split_words("""January February March April May June July August September October November
December""")
SEASONS = split_words("spring summer autumn winter")
COLOURS = split_words("""red blue green yellow orange purple pink brown black white grey golden
silver
dark_blue light_green bright_red pale_yellow""")
ANIMALS = split_words("""
dog cat horse cow sheep goat pig rabbit mouse bird duck goose chicken eagle owl parrot fox wolf
bear deer lion tiger elephant monkey giraffe zebra camel snake turtle frog fish shark whale
dolphin bee butterfly spider ant pony puppy kitten squirrel hedgehog swan penguin
""")
FOODS = split_words("""
bread butter cheese milk rice pasta soup salad chicken beef pork lamb ham bacon sausage fish
salmon tuna shrimp pizza toast honey jam sugar salt pepper flour oil vinegar garlic cream yogurt
cake pie cookies chocolate ice_cream pudding porridge cereal pancakes noodles curry steak beans
peas corn mushrooms spinach cabbage broccoli carrots potatoes tomatoes onions lettuce cucumber
""")
FRUITS = split_words("""
apple banana pear peach plum cherry lemon lime melon mango grape strawberry raspberry pineapple
coconut tomato potato carrot onion egg sandwich biscuit burger muffin cookie pancake
""")
DRINKS = split_words("""
water tea coffee juice milk beer wine lemonade hot_chocolate orange_juice apple_juice
green_tea black_coffee sparkling_water red_wine white_wine cider cocoa whisky
""")
CLOTHES = split_words("""
shirt dress skirt coat jacket sweater hat scarf belt tie suit blouse uniform raincoat cap
""")
CLOTHES_PL = split_words("""shoes boots gloves socks trousers jeans sandals glasses slippers pyjamas
shorts earrings""")
ROOMS = split_words("""
kitchen bedroom bathroom living_room garage garden attic basement hall office balcony cellar
dining_room laundry nursery corridor
""")
FURNITURE = split_words("""
table chair sofa bed desk lamp shelf mirror cupboard carpet curtain wardrobe bench drawer stool
""")
OBJECTS = split_words("""
book pen pencil letter newspaper magazine phone computer camera radio television clock watch key
bag wallet umbrella bottle cup glass plate bowl knife fork spoon pan kettle box basket bucket
broom towel blanket pillow candle match torch battery ladder hammer nail saw rope tape ball toy
doll puzzle guitar piano violin drum picture map ticket passport suitcase parcel package envelope
stamp card coin ring necklace bicycle car truck bus train boat ship plane helicopter tractor van
motorbike laptop printer screen keyboard cable charger helmet tent backpack notebook calendar
photograph painting statue vase microphone telescope compass whistle kite balloon wheel engine
machine tool brush sponge soap toothbrush razor comb mug jar lid tray hook button zip needle
""")
BUILDINGS = split_words("""
house school church hospital library museum theatre cinema restaurant hotel station airport bank
supermarket bakery pharmacy post_office factory farm castle tower bridge stadium gym swimming_pool
market bookshop university police_station town_hall fire_station palace temple harbour
hairdresser garage cottage apartment cafe pub
""")
NATURE = split_words("""
river lake sea ocean mountain hill valley forest wood desert island beach field meadow path road
street garden park cave waterfall cliff canyon coast glacier volcano pond stream jungle village
town city country border
""")
JOBS = split_words("""
doctor nurse teacher student lawyer judge farmer baker butcher cook waiter waitress driver pilot
sailor soldier policeman fireman engineer scientist artist painter writer actor singer dancer
musician journalist photographer dentist plumber electrician carpenter mechanic gardener cleaner
secretary manager director accountant librarian tailor barber banker chemist builder architect
clerk guide translator professor coach president minister captain detective
""")
PEOPLE = split_words("""
mother father brother sister son daughter uncle aunt cousin grandmother grandfather nephew niece
husband wife friend neighbour boss colleague guest customer visitor stranger child boy girl man
woman baby teenager passenger patient tourist partner roommate
""")
PEOPLE_PL = split_words("""
children people students parents friends neighbours guests customers visitors tourists passengers
workers players teachers doctors farmers women men boys girls soldiers twins grandparents
citizens volunteers Americans
""")
BODY = split_words("""
head arm leg hand foot finger toe knee elbow shoulder back neck ear eye nose mouth tooth throat
stomach chest ankle wrist thumb hip skin
""")
ABSTRACT = split_words("""
idea plan problem question answer story song film game lesson meeting party holiday journey trip
concert wedding birthday exam interview contract report project message email address number
password account bill price discount order delivery appointment reservation accident mistake
chance decision promise secret dream habit hobby language word sentence chapter page poem joke
rule law election speech war peace history science music art sport business company team
department budget meal recipe menu breakfast lunch dinner conversation argument explanation
description experience experiment result example reason difference advantage choice opinion
future past century moment weekend evening morning afternoon crowd family group club class
newspaper programme exhibition festival competition race prize gift present surprise adventure
""")
SCHOOL = split_words("""
mathematics history geography biology chemistry physics music art drama literature economics
""")
SPORTS = split_words("""
football tennis golf cricket hockey basketball rugby chess cards baseball volleyball badminton
table_tennis
""")
ADJ = split_words("""
big small large little tall short long wide narrow thick thin heavy light fast slow quick early
late new old young modern ancient good bad great wonderful terrible beautiful ugly pretty lovely
nice clean dirty wet dry hot cold warm cool soft hard smooth rough sharp sweet sour bitter fresh
rotten empty full open closed loud quiet noisy silent strong weak rich poor cheap expensive free
busy lazy clever stupid wise foolish funny serious happy sad angry calm nervous proud shy brave
afraid tired hungry thirsty sick healthy safe dangerous easy difficult simple strange normal
common rare famous popular important useful useless perfect broken special secret public private
local foreign familiar honest polite rude friendly kind cruel gentle careful patient curious
bright dark plain wooden plastic round square flat deep shallow steep huge tiny enormous boring
exciting interesting amazing surprising delicious comfortable crowded lonely peaceful gorgeous
magnificent ordinary mysterious fantastic excellent awful horrible real false
""")
FEELINGS = split_words("""
happy sad angry tired hungry thirsty sick bored excited worried nervous proud surprised
disappointed confused ready afraid lonely grateful jealous embarrassed relaxed busy late early
lost right wrong sure certain
""")
ADV_MANNER = split_words("""
slowly quickly quietly loudly carefully gently happily sadly angrily easily suddenly politely
patiently bravely softly nervously proudly secretly silently perfectly badly well together alone
immediately finally eagerly honestly
""")
FREQ = split_words("""always usually often sometimes rarely never hardly_ever normally occasionally
frequently""")
WEATHER_ADJ = split_words("""
sunny cloudy rainy windy foggy snowy stormy warm cold hot cool wet dry mild humid freezing chilly
icy misty bright grey
""")
WEATHER_NOUN = split_words("""
rain snow wind fog thunder lightning sunshine hail frost ice storms showers clouds drizzle
""")
MATERIALS = split_words(
    "wood glass metal paper plastic stone leather cotton wool silk iron gold silver"
)
EXCLAIM = split_words("""
well okay sure of_course all_right actually honestly unfortunately luckily maybe perhaps yes no
sorry excuse_me hello hi good_morning good_evening by_the_way anyway still however thanks
""")
PREP_PLACE = split_words("""
in_front_of behind next_to near opposite beside under above across_from far_from close_to
inside outside around on_top_of
""")
INGREDIENT_UNITS = split_words(
    "cup spoon slice bottle glass bag box can packet jar piece pound bowl"
)
DEVICES = split_words("""
lights heating music alarm television radio oven fan lamp printer computer dishwasher heater timer
volume camera washing_machine vacuum_cleaner
""")
QUANT = split_words(
    "many several a_few some lots_of plenty_of both hundreds_of thousands_of most_of_the"
)
ORDINALS_SMALL = split_words("""
first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth
fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth
""")
# base, third person, past, participle, -ing; the regular ones are derived in verbs.py
IRREGULAR = split_words("""
buy:bought:bought bring:brought:brought find:found:found lose:lost:lost see:saw:seen
take:took:taken break:broke:broken build:built:built choose:chose:chosen draw:drew:drawn
forget:forgot:forgotten
give:gave:given hide:hid:hidden hold:held:held keep:kept:kept leave:left:left make:made:made
read:read:read sell:sold:sold send:sent:sent show:showed:shown steal:stole:stolen throw:threw:thrown
write:wrote:written catch:caught:caught wear:wore:worn bake:baked:baked get:got:got hear:heard:heard
understand:understood:understood pay_for:paid_for:paid_for feed:fed:fed shake:shook:shaken
""")
REGULAR = split_words("""
open close clean wash paint carry push pull lift drop move collect deliver order borrow return
repair fix use check watch like love hate want need remember describe explain finish start follow
visit discover remove replace destroy protect prepare cook taste share study copy print design
measure count cover fill empty kick touch examine admire enjoy miss mention notice
receive accept refuse ignore change improve recommend mention save
""")
INTRANS_REG = split_words("""
wait laugh smile cry shout talk walk jump dance work stay live arrive travel rest play listen look
stop cough sneeze whisper complain study relax
""")
INTRANS_IRR = split_words("""
go:went:gone come:came:come run:ran:run sleep:slept:slept sing:sang:sung swim:swam:swum
fall:fell:fallen sit:sat:sat stand:stood:stood drive:drove:driven fly:flew:flown
speak:spoke:spoken think:thought:thought
eat:ate:eaten drink:drank:drunk ride:rode:ridden win:won:won leave:left:left
wake_up:woke_up:woken_up
""")
FREE_WORDS = split_words("""
able accept across advice agree allow almost although among ancient another anybody anything
appear area argue arrange arrow attack attempt average avoid award aware axe balance bargain
barrel beat beauty became because become begin behaviour belief belong bend benefit beyond bite
blame blow board bold bomb bone born borrow boundary brain branch brave breath brick brief broad
bubble bullet burn bury bush cage candle capital cattle cause ceiling celebrate chain chairman
challenge channel charge charm chase cheek cheer chief circle claim claw climb cloth coal collar
column comfort command compare complete concern condition confidence connect consider control
cotton cough council courage court cousin crack crash cream create crime crop cross crown culture
current curve custom damage danger death debate debt decade declare defend degree delay depend
depth desire detail develop devil diamond diet direction disaster discuss disease distance divide
document double doubt drag drain dust duty earn earth east echo edge education effect effort
either electric elsewhere employ enemy energy engine enough enter entire equal escape especially
event everyone everything evidence evil exact except exchange exercise exist expect expert express
extra extreme face fact fail faith familiar fancy fashion fate fault favour feather fellow fence
fever fierce figure final flame flash float flood floor flow folk force form formal fortune forward
frame freedom freeze frighten fuel function fund funeral further gain gap gas gate gather general
generation gentle ghost giant glory glue goal government grain grand grass grave greet grip ground
grow guard guess guilty gun half handle happen harm harvest heart heaven height hero history hole
hollow holy honour hope horror human humour hundred hunt hurry image imagine impossible inch include
increase indeed industry influence inform injury insect inside instance instead instrument
intend interest invent invite iron itself jaw jewel join journey joy judgement juice justice keen
kid kill kingdom kiss knock knowledge labour lack lamp language laughter lead leaf lean leather
length level liberty lie limit liquid list load loan lock lord loss luck lump mad magic mail major
manner mark marriage mass master material matter meaning medicine member memory mental merchant
mercy metal method middle might mild military million mind mineral minor miracle model moon moral
motion mud murder muscle mystery narrow nation native nature necessary neither nerve network news
noble noise none nor north nothing object observe occasion ocean offer officer operate opposite
oppose origin other ought owe own pace pain pair palm parade pardon particular passage path pattern
pause perform permit person physical pile pinch planet pleasure pocket poison pole policy polish
political population possible pour power praise pray prefer press pretend prevent pride priest
prince princess prison process produce profit progress property propose prove provide punish pupil
pure purpose quality quantity quarrel quarter queen race rail raise rapid rate raw reach realise
reduce refer regular relation religion rely remain remind remote repeat reply respect responsible
reward rhythm ripe rise risk rob rock roll roof root rot royal rub ruin rush sacred sail sand
satisfy scale scatter scene scream search seat seed seem seize sense separate servant settle
several shade shadow shame shape shelter shield shine shock shoot shore shoulder sight sign signal
silence sink skill sky slave slide slip smell smoke social society soil solid solve somebody
somehow something somewhere soul sound source south space spare spark special speed spell spend
spirit spite split spoil spot spread stage stain stair standard star state steady steam steel stem
step stick stiff stir stock stone strength stretch strike string struggle stuff style subject
succeed success such suffer suggest suitable supply support suppose surface surround survive
suspect swallow swear sweep swell swing sword sympathy system tail tale talent tame task tax tear
tempt tend term terror test thank themselves theory therefore thief thorn thorough thought thread
threat thumb thunder tide tight tin title tone tongue total tough trade tradition trail trap
treasure treat tree tremble tribe trick trouble trust truth tube twist type union unite universe
unless unusual upper upset value variety various victory view violent virtue voice vote voyage wage
wander warn waste wave wealth weapon weave weed weigh west whatever whenever wherever whether while
whole wicked wild willing wing wire wish witness wonder world worm worry worth wound wrap yard
yesterday youth zero ask your country fellow citizens Americans
""")

# Alone, without a context, nobody can tell these from a word that sounds the same.
HOMOPHONES = frozenset(
    split_words("""
air allowed aloud ant ate aunt bail bale ball band banned bare bawl be beach bean beat bee beech
been beet berth birth bite blew blow blue board borough bow brake break brews bridal bridle
bruise burrow bury buy by byte ceiling cell cent cents cereal chews choose chord chute coarse
cord council course court coward creak dear deer dew die doe dough due earn eight either fair
fare fate feat feet fete find fined fir flea flee flew flour flower flu for fore formally four
fur grate great groan grown guessed guest hail hair hale hare heal hear heard heel heir herd
here hi high higher hire hoarse hole holy horse hour idle idol in inn kernel key knew knight
knot know lead leak leased least leek lessen lesson lie load loan lone made maid mail main male
mane manner manor medal meter metre mind mined miner minor missed mist moan morning mourning
mown muscle mussel neither new night no none not nun oar one or ore ought our pail pain pair
pale pane patience patients pause paws peace peak pear piece pique plain plane pole poll poor
pore pour practice pride pried prince principal prints profit prophet quay rain raise rap raw
rays read reign right role roll root row sail sale scene scent sea sealing see seem seen sell
sense serial shoot sight sole some son sort sought soul source stair stake stare stationary
steak steal steel straight strait suite sum sun sweet tail tale team tear teem their there threw
throne through thrown tide to too two urn vain vale veil vein wade waist wait war waste way we
weak weather wee week weigh weighed were whether which whine whole wholly wind wine witch won
wood would wound wrap write yoke yolk yore your
""")
)
PLAIN_WORDS = [word for word in FREE_WORDS if word not in HOMOPHONES]
