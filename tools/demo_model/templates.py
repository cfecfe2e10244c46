"""Sentence frames of the generator, one to a line, after its weight."""

from __future__ import annotations

_TEXT = """
8 {list}.
2 {free} {free} {free} {free}.
2 {names}.
2 {digits}.
1 {num}, {num}, {big}, {num}.
1 {name} {surname}, {name} {surname}, {name} {surname}.
1 {word}, {word} and {word}.
1 {adj} {noun}, {adj} {noun}.
1 {noun} {prep} {noun}, {word} {adv}.
3 {subj3} {vted} {np} {when}.
3 {subj} {vted} {np} {place}.
2 {subj} {modal} {vt} {np} {when}.
2 {subj3} {modal} {vt} {np} and {vi} {adv}.
2 {subj3} {freq} {vts} {np} {place}.
1 {when}, {subj} {vted} {np}.
1 {place}, {subj3} {vied} {adv}.
2 {np} was {vtpp} by {np}.
2 {np} is {prep} {np}.
2 {np} and {np} are {prep} {np}.
1 {np} {modal} be {vtpp} {place} {when}.
2 {subj3} is {vting} {np}.
1 {subj} were {vting} {np} {when}.
2 {subj3} {vied} {place} {when}.
1 {subj} {neg} {vt} {np}.
1 {subj} {neg} {vi} {place} {when}.
1 {vt} {np} and {vt} {np}.
1 {vt} {np} {prep} {np}, please.
1 please {vt} {np} {when}.
1 {vt} {poss} {thing} {adv}, {name}.
1 {subj3} {vted} {np}, but {subj} {vted} {np}.
1 {subj3} {vied} because {np} was {adj}.
1 if {subj} {vt} {np}, {subj3} will {vt} {np}.
1 when {subj3} {vied}, {np} was {adj}.
1 after {subj} {vied}, {subj3} {vted} {np}.
1 although {np} is {adj}, {subj3} {vts} {np}.
1 {np} that {subj} {vted} was {adj} and {adj}.
1 who {vted} {np}?
1 why did {subj} {vt} {np}?
1 when will {subj} {vt} {np}?
1 where did {subj3} {vt} {np}?
1 how often do {subj} {vt} {np}?
1 does {subj3} {vt} {np} {when}?
1 did {subj} {vt} {np} {place}?
1 have {subj} {vtpp} {np}?
1 {subj} have {vtpp} {np} {place}.
1 {subj3} has {vtpp} {np} {when}.
1 is {np} {adj} or {adj}?
1 are {subj} {viing} {when}?
1 {subj} would like {np} and {np}.
1 {viing} {place} is {adj}.
1 {vting} {np} is {freq} {adj}.
1 what {adj} {nouns} {pron} {vted}.
1 {quant} {nouns} were {adj}.
1 {quant} {folk} {vied} {place}.
1 the {nth} {noun} is {adj}, the {nth} is {adj}.
1 there are {num} {nouns} {place}.
1 there is a {adj} {noun} {prep} {np}.
1 one {noun} is {colour}, the other is {colour}.
1 {colour} {things} and {colour} {things}.
1 it is {time}.
1 the time is {time}.
1 what time is it in {city}?
1 the meeting starts at {time}.
1 the {abs} begins {when} at {time}.
1 the train to {city} leaves at {time}.
1 the bus from {city} arrives at {time}.
1 the next flight to {country} is at {time} from gate {num}.
1 please wake me up at {time}.
1 set an alarm for {time}.
1 set a timer for {num} {unit_time}.
1 remind me to {vt} {poss} {thing} at {time}.
1 the shop opens at {time} and closes at {time}.
1 we will meet {place} at {time}.
1 can we meet {when} instead of {day}?
1 today is {date}.
1 today is {day}, {date}.
1 {poss} birthday is on {date}.
1 {name} was born in {city} in {year}.
1 the {building} was built in {year}.
1 the {abs} is on {day}, {date}, at {time}.
1 in {year}, {subj3} moved to {city}.
1 {month} was {wadj} and {wadj}.
1 the war ended in {year}.
1 {country} won the {sport} match {small} to {small}.
1 my phone number is {digits}.
1 call me at {digits}.
1 the code is {digits}.
1 {poss} password is {word} {digits}.
1 the room number is {num}.
1 the answer is {big}.
1 {num} plus {num} is {num}.
1 {num} times {small} is {big}.
1 {num} minus {num} makes {num}.
1 about {big} people live in this {nature}.
1 {pct} of the {folk} {vted} {np}.
1 the price rose by {pct} in {month}.
1 {quant} {folk} like {sport}.
1 the {building} is {num} {unit_len} {prep} the {nature}.
1 the {nature} is {big} {unit_len} long.
1 it takes {num} {unit_time} to get to {city}.
1 that will be {money}.
1 the {thing} costs {money}.
1 how much does the {thing} cost?
1 how much are the {fruits}?
1 I paid {money} for {np}.
1 can I pay by card or in cash?
1 do you have this {clothes} in {colour}?
1 I am looking for a {adj} {clothes} and {adj} {pairs}.
1 these {pairs} are too {adj} for me.
1 I would like to buy {small} {fruits} and a {unit} of {drink}.
1 we need {food}, {food} and {food}.
1 please buy {small} {units} of {food}.
1 add {food} and {drink} to the shopping list.
1 two {units} of {food} and one {unit} of {food}, please.
1 I will have the {food} with {food} and a glass of {drink}.
1 could we have the bill, please?
1 a table for {small} at {time}, please.
1 {name} ordered {food}, {food} and {drink}.
1 the {food} with {food} tastes {adj}.
1 do you prefer {drink} or {drink}?
1 would you like {food} or {food} for dinner?
1 mix the {food} with {small} spoons of {food}.
1 cook the {food} for {num} minutes.
1 {subj3} never eats {food} or {food}.
1 for breakfast we had {food}, {food} and {drink}.
1 it is {wadj} in {city} today.
1 the weather in {city} will be {wadj} {when}.
1 will it be {wadj} in {city} {when}?
1 there will be {wnoun} in {city} and {wnoun} in {country}.
1 expect {wnoun} and {wnoun} {when}.
1 the temperature is {num} degrees.
1 it will be {wadj} with a chance of {wnoun}.
1 the {season} in {country} is {wadj} and {wadj}.
1 take an umbrella, because it is going to rain.
1 a strong wind blew from the {dir}.
1 turn {dir} at the {building}.
1 turn left after {num} {unit_len}, then go straight on.
1 go past the {building} and turn right at the {building}.
1 the {building} is on the left, next to the {building}.
1 take the {nth} street on the right.
1 how do I get to the {building} from here?
1 excuse me, where is the nearest {building}?
1 is there a {building} near {street}?
1 drive {dir} for {num} {unit_len}.
1 walk along {street} until you reach the {building}.
1 {subj} live at {num} {street} in {city}.
1 we travelled from {city} to {city} by {obj}.
1 have you ever been to {country}?
1 I want to fly from {city} to {city} {when}.
1 a return ticket to {city}, please.
1 the flight to {city} is delayed by {num} minutes.
1 our hotel in {city} has {small} {adj} rooms.
1 the train now standing at platform {small} is for {city}.
1 passengers for {city}, please go to gate {num}.
1 the road between {city} and {city} is closed.
1 send a message to {name}.
1 tell {name} that I will be {feel}.
1 call {name} {surname}.
1 send {name} an email about the {abs}.
1 {name} wrote that the {abs} was {adj}.
1 dear {name}, thank you for the {obj}.
1 please call {name} back {when}.
1 you have {small} new messages from {name}.
1 this is {name} {surname} from {city}.
1 my name is {name} {surname}.
1 I got your letter about the {abs} {when}.
1 please leave a message after the tone.
1 hello {name}, how are you today?
1 nice to meet you, {name}.
1 I am fine, thank you.
1 thank you very much for your help.
1 see you {when}.
1 how was your {abs}?
1 where are you from?
1 I come from {city}, but I live in {country}.
1 what do you do for a living?
1 I work as a {job} in {city}.
1 {name} is a {job} and {name} is a {job}.
1 {subj3} has {small} children and a {animal}.
1 what is your favourite {abs}?
1 my favourite colour is {colour}.
1 I feel {feel} and {feel}.
1 are you {feel}?
1 {subj3} looks {feel} today.
1 don't be so {feel}.
1 happy birthday, {name}!
1 I am sorry, I don't understand.
1 do you speak {lang}?
1 {subj3} speaks {lang}, {lang} and a little {lang}.
1 how do you say {word} in {lang}?
1 the word {word} comes from {lang}.
1 please spell the word {word}.
1 what is the meaning of {word}?
1 {name} likes {sport} and {sport}.
1 do you want to play {sport} {when}?
1 {subj3} plays {sport} every {day}.
1 our team won {small} games in {month}.
1 {poss} {abs} was more {adj} than {poss} {abs}.
1 the {abs} is not as {adj} as the {abs}.
1 I think that {np} is {adj}.
1 {subj} believe the {abs} is {adj}.
1 I don't think {subj3} {vts} {np}.
1 {name} said that {np} was {adj}.
1 {name} asked whether {np} was {vtpp}.
1 {subj} know that {subj3} {vted} {np}.
1 {subj3} wants to {vt} {np}.
1 {subj} decided to {vt} {np} {adv}.
1 {subj3} tried to {vi} {adv}.
1 {subj} hope to {vt} {np} {when}.
1 it is {adj} to {vt} {np}.
1 it was {adj} of {obj_pron} to {vt} {np}.
1 {subj} {freq} {vi} {place}.
1 let's {vi} {when}.
1 let's {vt} {np}.
1 turn on the {device} in the {room}.
1 turn off the {device}.
1 switch the {device} on at {time}.
1 make the {device} {adj}.
1 is the {device} in the {room} off?
1 the {device} in the {room} is {adj}.
1 set the heating to {num} degrees.
1 play some {adj} music in the {room}.
1 clean the {room} and the {room}.
1 the {furn} in the {room} is made of {material}.
1 the {thing} is made of {material}, not {material}.
1 there is a {colour} {furn} in the {room}.
1 put the {thing} on the {furn}.
1 {poss} {thing} is under the {furn}.
1 where are my {pairs}?
1 I left my {obj} and my {obj} in the {room}.
1 we need a new {furn} for the {room}.
1 my {body} hurts.
1 my {body} and my {body} hurt.
1 {subj3} broke {poss} {body} {when}.
1 I have had a headache for {small} days.
1 take this medicine {small} times a day.
1 you should see a {job} about your {body}.
1 the {job} looked at {poss} {body}.
1 {name} has an appointment with the {job} at {time}.
1 {subj3} is allergic to {food} and {food}.
1 drink a glass of {drink} before you go to sleep.
1 the {job} needs the report by {day}.
1 our company has {big} workers in {country}.
1 the {abs} about the {abs} is on your desk.
1 can you send me the {abs} before {time}?
1 {name} {surname} is our new {job}.
1 the {abs} was cancelled because of the {wnoun}.
1 {poss} boss wants to talk about the {abs}.
1 the computer does not work, please restart it.
1 the students learn {subject}, {subject} and {lang}.
1 {name} has a {subject} exam {when}.
1 open your books at page {num}.
1 chapter {small} is about {np}.
1 I have {num} {animals} and {small} {animals}.
1 the {animal} chased the {animal} {place}.
1 {animals} are {adj}, but {animals} are {adj}.
1 a {adj} {animal} slept {prep} the {furn}.
1 look at the {colour} {animal} {prep} the {nature}.
1 we walked through the {nature} to the {nature}.
1 the {nature} near {city} is {adj} in {season}.
1 from the {nature} you can see the {nature}.
1 {jobs} and {jobs} work {place}.
1 {np}, {np} and {np}.
1 first {vt} the {noun}, then {vt} the {noun}.
1 either {np} or {np} is {adj}.
1 {subj3} gave {obj_pron} {np}.
1 {subj} showed {name} {np}.
1 {subj3} bought {np} for {money}.
1 nobody {vted} {np} {when}.
1 everybody {vied} {when}.
1 something {adj} happened {place} {when}.
1 {pron} {modal} {vt} {obj_pron} {when}.
1 what can {pron} do for {obj_pron}?
1 ask {obj_pron} about the {free} and the {free}.
1 the {free} of the {free} is {adj}.
1 no {free} without {free}.
1 the {free} {free} was {adj}.
1 my fellow {folk}, the {free} is {adj}.
1 and so, {name}, {vt} {np}.
"""


def _parse() -> tuple[list[float], list[str]]:
    weights: list[float] = []
    texts: list[str] = []
    for line in _TEXT.strip().splitlines():
        head, _, rest = line.partition(" ")
        weights.append(float(head))
        texts.append(rest)
    return weights, texts


TEMPLATES = _parse()
