"""Invented tweets, put together from hand-written pieces."""

from __future__ import annotations

from corpus.grammar import words

CLASSES = ("positive", "negative", "neutral")

SLOTS: dict[str, list[str]] = {
    "thing": words("""
this phone; the new update; my new laptop; this coffee; the pizza here; this movie; the concert
this book; the new album; my flight; the hotel; this game; the new season; my bike; the train ride
the service; this app; customer support; the show; the food; the match; this restaurant
the weather; my job; the class; the lecture; this song; the battery; the camera; the screen
the delivery; these shoes; this dress; the soup; the burger; the beach; the museum; the new office
the wifi; this playlist; the headphones; the keyboard; the ending; the acting; the staff
the breakfast; this bakery; the bus; my haircut; the party; the podcast; this series; the interview
the presentation; our holiday; the room; the view; my new job; this website; the checkout; the tea
the new design; the event; my weekend; the trailer; this town; the gym; the sandwich; the cake
"""),
    "good": words("""
great; amazing; awesome; wonderful; fantastic; brilliant; lovely; excellent; perfect; beautiful
delicious; superb; outstanding; incredible; so good; really good; really nice; a dream; a joy
the best; fabulous; terrific; delightful; impressive; stunning; top notch; flawless; a real treat
better than expected; super fun; so much fun; so relaxing; fast and reliable; worth every penny
pure magic; gorgeous; charming; first class; spot on; heartwarming; inspiring; well made; a gem
"""),
    "bad": words("""
terrible; awful; horrible; bad; really bad; so bad; the worst; disappointing; a disaster; a mess
a joke; broken; useless; boring; painful; disgusting; pathetic; rubbish; garbage; dreadful; a scam
overpriced; a waste of money; a waste of time; not worth it; unacceptable; a nightmare; ruined
slow and buggy; rude; cold and stale; annoying; frustrating; so ugly; poorly made; unbearable
a huge letdown; miserable; lousy; dirty; worse than before; a complete failure; ridiculous
"""),
    "pos_act": words("""
I love {thing}; Loving {thing}; I really love {thing}; We enjoyed {thing}; I adore {thing}
So happy with {thing}; I am so pleased with {thing}; Really impressed by {thing}
Can't get enough of {thing}; I can't stop smiling about {thing}; {thing} made my day
{thing} made me so happy; {thing} exceeded my expectations; Big fan of {thing}
Highly recommend {thing}; So grateful for {thing}; Thank you so much for {thing}
{thing} never disappoints; Nothing beats {thing}; I am in love with {thing}; Five stars for {thing}
Can't wait to try {thing} again; Best day ever thanks to {thing}; {thing} just keeps getting better
I will definitely come back for {thing}; {thing} works like a charm; Well done to {thing}
"""),
    "neg_act": words("""
I hate {thing}; I really hate {thing}; So disappointed with {thing}; I regret {thing}
So angry about {thing}; I am sick of {thing}; Fed up with {thing}; Tired of {thing}
{thing} ruined my day; {thing} made me so sad; {thing} let me down; {thing} keeps crashing
I want my money back for {thing}; Never again with {thing}; Do not waste your money on {thing}
Avoid {thing}; I can't stand {thing}; {thing} broke after two days; {thing} stopped working
{thing} was late again; Zero stars for {thing}; One star for {thing}; Worst day ever thanks to {thing}
Nobody answers my complaints about {thing}; I had to wait two hours for {thing}; Shame on {thing}
{thing} gave me a headache; I will never come back for {thing}; I am furious about {thing}
I don't like {thing}; I do not recommend {thing}; {thing} does not work at all
"""),
    "neu_act": words("""
{thing} starts at {time}; {thing} is on {day}; I am going to {place} on {day}; Reading about {thing}
{thing} opens {day} at {time}; Does anyone know when {thing} starts?; Is {thing} open on {day}?
Just arrived at {place}; On my way to {place}; Leaving {place} at {time}; Meeting at {time} in {place}
The bus to {place} leaves at {time}; {thing} was announced on {day}; What time is {thing} on {day}?
We talked about {thing} on {day}; I bought {object} at {place}; I have {object} in my bag
There is {object} on the table; The office is closed on {day}; Tickets for {thing} are on sale {day}
New blog post about {object}; The meeting moved to {time}; The report comes out on {day}
Today is {day}; It is {time} in {place}; I have a meeting at {time}; My appointment is on {day}
Which {gadget} do you use?; Looking for {object} in {place}; {thing} has been updated to version {n}
{n} people attended {thing}; The package should arrive on {day}; I watched {thing} on {day}
I ordered {object} on {day}; I had {object} for lunch; Heading to {place} for {object}
The store in {place} sells {object}; The library is next to {place}; The road to {place} is open
How do I change the settings of {thing}?; Where can I find {object}?; Page {n} of {n}
{thing} takes place in {place} this year; {thing} has {n} parts; I live near {place}
"""),
    "day": words("""
Monday; Tuesday; Wednesday; Thursday; Friday; Saturday; Sunday; tomorrow; next week
"""),
    "time": words("9am; 10:30; noon; 3pm; 7 o'clock; 8:15; midnight; 6pm; 14:00; 5:45"),
    "place": words("""
the station; the airport; the office; the library; the park; the mall; Lisbon; Berlin; Chicago
Toronto; the market; the gym; school; campus; the city hall; Madrid; the harbour; the hospital
"""),
    "object": words("""
a pen; two tickets; a sandwich; a new notebook; some milk; a bag of apples; a map; a blue shirt
a cup of tea; a train ticket; an umbrella; a chair; a desk lamp; rice and vegetables; a charger
"""),
    "gadget": words("browser; editor; phone; bank; gym; camera; keyboard; supermarket"),
    "n": words("2; 3; 5; 10; 12; 40; 200; 7; 1500"),
    "pos_tail": words("""
Thank you!; Thanks!; So happy!; Love it!; Highly recommended!; Yay!; 10/10; Wow!; I'm thrilled
What a day!; Can't wait for more; Best ever!; Well done!; 5 stars; Made me smile; Feeling blessed
:); :D; <3; 😊; 😍; ❤️; 🎉; 👍; 🥰; 🔥; #love; #happy; #blessed; #winning; #bestdayever
"""),
    "neg_tail": words("""
Never again.; So sad.; I want a refund.; Ugh.; Not happy.; Worst ever.; Thanks for nothing.
I give up.; What a waste.; Really upset.; I'm done.; Avoid!; So annoyed.; Fix it!; 0/10; Terrible!
:(; :'(; 😡; 😠; 😢; 👎; 😭; 🤬; 💔; #fail; #angry; #worst; #disappointed; #sad; #neveragain
"""),
    "neu_tail": words("""
#news; #info; #update; #travel; #work; #monday; Details in the link.; More info tomorrow.
See you there.; Any ideas?; Just checking.; For your information.; FYI; See below.; #question
"""),
    "pos_life": words("""
I passed my exam; I got the job; We won; My team won the cup; I got engaged; It's a girl
The sun is shining; I slept so well; She said yes; My kids made me breakfast; We are having a baby
I finally finished my thesis; Had a great time with friends; Feeling so proud of my team
Finally on holiday; Got a promotion; Best birthday ever; My dog makes me so happy
The doctor says I am healthy again; Found my lost cat; Everyone was so kind and helpful today
"""),
    "neg_life": words("""
I failed my exam; I lost my job; We lost again; My car broke down; My phone got stolen; I feel sick
It has rained all week; I could not sleep at all; She left me; My dog died; I missed my flight
Stuck in traffic for hours; My back hurts so much; Feeling lonely and sad today; I got fired
They cancelled my flight; My order never arrived; Someone hit my car; I lost my wallet
Got food poisoning; My laptop died before I saved my work; They charged me twice
The power is out again; Everyone was rude and unhelpful today; Waited an hour and nobody came
"""),
    "handle": words("@anna_k; @tom99; @cityrail; @shopnow; @thebakery; @airfly; @gamehub; @lucy"),
    "intro": words("""
omg; OMG; lol; Honestly; Well; Ok; So; Wow; Guys; Just saying; Today; Not gonna lie; Seriously
Update; ok so; tbh; I think; To be honest; I must say; hey
"""),
}

TRAIN: dict[str, list[str]] = {
    "positive": words("""
{pos_act}!; {pos_act}. {pos_tail}; {thing} is {good}!; {thing} was {good}. {pos_tail}
{intro}, {thing} is {good}; {handle} {thing} is {good} {pos_tail}; {pos_life}! {pos_tail}
{pos_life}; {pos_act} and {thing} was {good}; {thing} is {good} and {good}; {good}! {pos_act}
What a {thing_good}!; {thing} was not bad at all, in fact {good} {pos_tail}; {intro} {pos_act}
I expected {thing} to be {bad}, but it was {good}!; {handle} {pos_act} {pos_tail}
I was worried, but {thing} turned out {good}; {thing} is {good}, thank you {handle}!
{thing} used to be {bad}, now it is {good}; {pos_tail} {pos_act}; {thing} looks {good} {pos_tail}
{pos_act} so much {pos_tail}; {thing} is simply {good}. {pos_act}; {thing} is no longer {bad}, {good} now
Never had a problem with {thing}, {good}; not a single complaint about {thing}
{pos_tail} {thing} is {good}; How {good} is {thing}?! {pos_tail}
"""),
    "negative": words("""
{neg_act}!; {neg_act}. {neg_tail}; {thing} is {bad}!; {thing} was {bad}. {neg_tail}
{intro}, {thing} is {bad}; {handle} {thing} is {bad} {neg_tail}; {neg_life}! {neg_tail}
{neg_life}; {neg_act} and {thing} was {bad}; {thing} is {bad} and {bad}; {bad}! {neg_act}
{thing} was not {good} at all {neg_tail}; {thing} is not {good}; {intro} {neg_act}
I expected {thing} to be {good}, but it was {bad}!; {handle} {neg_act} {neg_tail}
I was hoping for more, but {thing} turned out {bad}; {thing} is {bad}, thanks for nothing {handle}
{thing} used to be {good}, now it is {bad}; {neg_tail} {neg_act}; {thing} looks {bad} {neg_tail}
Why is {thing} so {bad}?; {thing} isn't {good} anymore; {thing} is simply {bad}. {neg_act}
How can {thing} be so {bad}? {neg_tail}; {handle} fix {thing} please, it is {bad}
Nothing {good} about {thing}; {neg_tail} {thing} is {bad}
"""),
    "neutral": words("""
{neu_act}; {neu_act}.; {neu_act}. {neu_tail}; {handle} {neu_act}; {intro}, {neu_act}
{neu_act} {neu_tail}; {neu_act}. {neu_act}.; {neu_act}, {neu_act}; {thing} is okay, nothing special
{thing} is neither good nor bad; {thing} was fine I guess; No opinion about {thing}
{thing} is average; {thing} has good and bad sides; I have not decided about {thing} yet
{thing} was as expected; {handle} what is the price of {object}?; {thing} is ok; it is what it is
"""),
}
SLOTS["thing_good"] = words("""
great day; lovely evening; wonderful surprise; brilliant match; beautiful morning; fantastic show
""")

HELDOUT: dict[str, list[str]] = {
    "positive": words("""
Everything about {thing} was {good}, I am delighted; {thing} turned out to be {good} {pos_tail}
Just wanted to say that {thing} is {good}; Two days with {thing} and I think it is {good}
My whole family says {thing} is {good}; {pos_life}, and {thing} was {good} too!
Honestly surprised how {good} {thing} has been; Believe me, {pos_act}
"""),
    "negative": words("""
Everything about {thing} was {bad}, I am upset; {thing} turned out to be {bad} {neg_tail}
Just wanted to say that {thing} is {bad}; Two days with {thing} and I think it is {bad}
My whole family says {thing} is {bad}; {neg_life}, and {thing} was {bad} too!
Honestly surprised how {bad} {thing} has been; Believe me, {neg_act}
"""),
    "neutral": words("""
Reminder: {neu_act}; A quick note: {neu_act}; {neu_act} - {neu_tail}; For the record, {neu_act}
Someone asked me: {neu_act}; {neu_act} ({day}); My calendar says: {neu_act}
"""),
}

TRAIN_INSTRUCTIONS = (
    "Classify the sentiment of this tweet as positive, negative or neutral: {x}",
    "Classify the sentiment of this tweet as positive, negative or neutral: {x}",
    "Classify the sentiment of this tweet as positive, negative or neutral: {x}",
    "Classify the sentiment as positive, negative or neutral: {x}",
    "Classify the sentiment of the following tweet as positive, negative, or neutral.\n\n{x}",
    "Is this tweet positive, negative or neutral? {x}",
    "Is the following text positive, negative or neutral?\n{x}",
    "Sentiment (positive, negative, neutral): {x}",
    "Tweet: {x}\nSentiment:",
    "Tweet: {x}\n\nIs the sentiment positive, negative or neutral? Answer with one word.",
    "What is the sentiment of this tweet? {x}",
    "What is the sentiment of this text: positive, negative or neutral?\n\n{x}",
    "Label the tweet as positive, negative or neutral.\nTweet: {x}\nLabel:",
    "How does the author feel? Reply positive, negative or neutral. {x}",
    "Respond with only one word, positive, negative or neutral.\n\nTweet: {x}",
    "Rate the mood of this message (positive/negative/neutral): {x}",
    "Determine the sentiment of this review: {x}",
    "Sentiment analysis: {x}",
)

HELDOUT_INSTRUCTIONS = (
    "Decide whether the sentiment of the tweet is positive, negative or neutral: {x}",
    "Read this tweet and tell me its sentiment (positive, negative or neutral).\n\n{x}",
    "Would you call this message positive, negative or neutral? {x}",
    "Give the sentiment of the tweet below in one word: positive, negative or neutral.\n{x}",
)
