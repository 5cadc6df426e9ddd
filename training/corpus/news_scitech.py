"""Word lists and templates for invented science and technology news."""

from __future__ import annotations

from corpus.grammar import words

SLOTS: dict[str, list[str]] = {
    "firm": words("""
Microsoft; Google; Yahoo; Apple; IBM; Intel; AMD; Dell; HP; Hewlett-Packard; Sun; Oracle; Cisco
eBay; Amazon; AOL; Sony; Nokia; Motorola; Samsung; Siemens; Palm; PalmOne; Research in Motion
RealNetworks; Novell; Red Hat; SCO; Adobe; Macromedia; Symantec; McAfee; Nintendo; Sega; Toshiba
Fujitsu; Hitachi; NEC; Philips; Texas Instruments; Qualcomm; Ericsson; Lucent; Mozilla; Netscape
Napster; Kazaa; Grokster; Skype; Vonage; TiVo; Netflix; Electronic Arts; Lycos; Ask Jeeves; MSN
Verisign; PeopleSoft; SAP; Siebel; Computer Associates; EMC; Gateway; Lexmark; Kodak; Xerox; Canon
NVIDIA; ATI; Transmeta; Infineon; Micron; Sanyo; Sharp; Linksys; Roxio; Creative; Archos; Opera
{made} Software; {made} Systems; {made} Labs; {made} Networks; {made}Soft; {made} Technologies
"""),
    "product": words("""
Windows; Windows XP; Windows XP Service Pack 2; SP2; Longhorn; Internet Explorer; Firefox; Linux
Mac OS X; iPod; iTunes; iMac; PlayStation; PlayStation 2; PSP; Xbox; GameCube; Nintendo DS; Halo 2
Doom 3; Gmail; Hotmail; desktop search; toolbar; search engine; Web browser; instant messenger
Office; SQL Server; Java; Solaris; Opteron; Itanium; Pentium 4; Centrino; 64-bit processor; chip
dual-core chip; flash memory; hard drive; DVD recorder; Blu-ray; HD DVD; plasma TV; LCD TV; camera
digital camera; camera phone; smart phone; BlackBerry; Treo; handheld; laptop; notebook; tablet PC
server; blade server; supercomputer; mainframe; printer; scanner; router; Wi-Fi; WiMax; Bluetooth
broadband; VoIP; Internet telephony; 3G; RFID; GPS; satellite radio; music player; music service
download service; peer-to-peer software; anti-virus software; anti-spam tool; firewall; spyware tool
database software; operating system; open source software; video game; online game; robot; e-book
"""),
    "threat": words("""
worm; virus; computer virus; Trojan; spyware; adware; spam; phishing; phishing scam; security flaw
security hole; vulnerability; bug; buffer overflow; hacker attack; denial-of-service attack; zombie PCs
identity theft; keystroke logger; exploit; critical flaw; malicious code; MyDoom; Sasser; Bagle
"""),
    "space": words("""
Mars; Saturn; Titan; the moon; Jupiter; Venus; Mercury; an asteroid; a comet; the sun; the Milky Way
the International Space Station; the space station; the space shuttle; the Hubble telescope; Cassini
Genesis; the Mars rover; Opportunity; Spirit; Huygens; SpaceShipOne; a Soyuz capsule; a rocket
a satellite; the solar wind; a black hole; a distant galaxy; an extrasolar planet; a supernova
Deep Impact; Swift; a meteor shower; dark matter; a lunar eclipse; a private spaceship; Discovery
"""),
    "science": words("""
stem cells; DNA; genes; the human genome; a gene; dinosaurs; a fossil; a hominid; Neanderthals; apes
whales; dolphins; sharks; penguins; bees; birds; elephants; pandas; frogs; coral reefs; Antarctic ice
glaciers; global warming; climate change; greenhouse gases; the ozone layer; carbon dioxide; oceans
volcanoes; earthquakes; hurricanes; tsunamis; the flu vaccine; a cancer drug; malaria; obesity
Alzheimer's; HIV; the brain; memory; sleep; cloning; cloned mice; nanotubes; nanotechnology; fusion
fuel cells; hydrogen; solar power; quantum computing; lasers; physics; chemistry; mathematics
a new species; giant squid; bird flu virus; bacteria; the Arctic; rain forest; wetlands; fisheries
genetically modified crops; a mummy; an ancient tomb; Stone Age tools; mammoths; an extinct bird
"""),
    "sci_body": words("""
NASA; the European Space Agency; scientists; researchers; astronomers; biologists; physicists
engineers; a study; a new study; geneticists; paleontologists; archaeologists; climate scientists
Stanford researchers; MIT researchers; a U.S. team; Japanese scientists; the journal Nature
the journal Science; astronauts; cosmonauts; conservationists; doctors; experts; an international team
"""),
    "tech_body": words("""
hackers; developers; gamers; users; music industry; the recording industry; RIAA; movie studios
Hollywood; the FCC; the FTC; the patent office; security experts; researchers; consumers; spammers
file swappers; bloggers; programmers; open-source backers; chip makers; phone makers; PC makers
software makers; the Linux community; Web surfers; IT managers; the European Commission; Gartner
"""),
    "techverb": words("""
launches; unveils; releases; announces; delays; upgrades; patches; fixes; tests; ships; introduces
rolls out; offers; previews; demos; debuts; updates; recalls; supports; adds; drops; open-sources
"""),
    "sciverb": words("""
discover; find; study; explore; photograph; map; track; detect; observe; reveal; explain; puzzle over
"""),
    "term": words("""
software; hardware; computer; computers; PC; PCs; laptop; desktop; notebook; server; servers; chip
chips; processor; semiconductor; silicon; memory; storage; disk; network; networking; Internet
Web; Web site; Web sites; online; browser; search; search engine; portal; blog; blogs; blogger; RSS
e-mail; email; spam; instant messaging; chat; broadband; dial-up; DSL; cable modem; wireless; Wi-Fi
hotspot; Bluetooth; cell phone; mobile phone; handset; text message; ringtone; camera phone; 3G
VoIP; telephony; download; downloads; music download; MP3; digital music; file sharing; peer-to-peer
piracy; copyright; DRM; patent; patent dispute; open source; Linux; Windows; Unix; kernel; code
source code; programmer; developer; developers; programming; Java; XML; Web services; database
middleware; enterprise software; application; applications; upgrade; patch; service pack; beta; bug
flaw; security; hacker; hackers; virus; worm; spyware; firewall; encryption; password; biometric
fingerprint; RFID; privacy; identity theft; phishing; e-voting; electronic voting; e-commerce
video game; games; gaming; console; gamer; gamers; handheld; PlayStation; Xbox; Nintendo; iPod
gadget; gadgets; digital camera; DVD; HDTV; plasma; flat panel; LCD; TiVo; satellite; satellite radio
GPS; robot; robots; robotics; supercomputer; grid computing; quantum; nanotech; laser; fiber optic
NASA; space; spacecraft; space station; shuttle; astronaut; astronauts; orbit; orbiter; rover; probe
lander; Mars; Saturn; moon; lunar; planet; planets; asteroid; comet; telescope; galaxy; star; stars
universe; astronomers; cosmic; rocket; launch; X Prize; capsule; physics; physicist; particle; atom
chemistry; Nobel Prize; laboratory; lab; experiment; research; researcher; researchers; scientist
scientists; study; theory; gene; genes; genetic; genome; DNA; stem cell; clone; cloning; embryo
protein; vaccine; bacteria; brain; neurons; species; endangered; wildlife; fossil; dinosaur; skeleton
evolution; ancestor; ancient; archaeologist; climate; global warming; emissions; Kyoto; greenhouse
ozone; Arctic; Antarctic; ice; glacier; ocean; fish; whale; turtle; insect; mosquito; seismic
hurricane forecast; weather satellite; renewable energy; hydrogen; fuel cell; hybrid car; battery
solar; wind power; nuclear fusion; ecosystem; biodiversity; crop; genetically modified; technology
innovation; prototype; interface; user; users; data; data center; virtual; 3D; graphics; animation
IT; information technology; tech; technologies; digital; electronics; engineers; startup; Silicon Valley
"""),
}

TITLES = words("""
{firm} {techverb} {product}; {firm} {techverb} new {product}; {firm} to launch {product}; {firm} {techverb} {product} update
{firm} takes on {firm} in {term}; {firm} and {firm} team up on {product}; {firm} sues {firm} over {term} patent
{firm} warns of {threat}; {threat} hits {product}; {threat} found in {product}; {firm} patches {threat}
new {threat} targets {product} users; {product} {threat} worries {tech_body}; {tech_body} fight {threat}
{tech_body} flock to {product}; {tech_body} embrace {term}; {tech_body} sue over {term}; {tech_body} warn of {threat}
{sci_body} {sciverb} {science}; {sci_body} {sciverb} {space}; {sci_body} {sciverb} clues to {science}
{space} {term} photographed; {space} mission delayed; {space} probe lands; NASA to launch probe to {space}
NASA {techverb} {space} mission; {space} may hold {science}; study: {science} linked to {science}
study says {science} at risk; {science} may help {science}; {science} threatened by {science}; {term} meets {term}
{term} goes {term}; {term} comes to {term}; the future of {term}; {firm} bets on {term}; {firm} eyes {term}
{firm} adds {term} to {product}; {product} gets {term}; {product} sales boom; {product} vs. {product}
{firm} {product} {techverb} {term}; review: {product}; hands-on with {product}; {term} on the go
{firm} cuts {product} prices; {firm} {term} plan; is {product} the next {product}?; {term} at a glance
crew heads for {space}; astronauts fix {term} on {space}; {space} crew returns to Earth; {term} {term} 
{firm} opens {product} to {tech_body}; {firm} scraps {product}; {firm} offers {term} for {term}
why {tech_body} need {term}; {term} without {term}; {firm} {term} in {nation_adj} market; {term} makes {term} easier
""")

BODIES = words("""
{firm} on {day} {techverb} {product}, aimed at {tech_body}
{firm} has released a new version of its {product} that adds {term} and {term}
A {threat} in {product} could let {tech_body} take control of a {term}
{sci_body_cap} have found {science} that may explain {science}
{sci_body_cap} say {space} could hold {term} and {term}
{sci_body_cap} reported on {day} that {science} is linked to {science}
The {product} will use {term} from {firm} and ship in {month}
{firm} said {day} it will support {term} in its {product} line
Security experts warned of a new {threat} that spreads through {term}
NASA said on {day} that {space} mission would study {space}
Using {term}, {sci_body} have mapped {science} for the first time
A spacecraft sent to {space} has sent back pictures of {space}
{tech_body_cap} are turning to {term} as {threat} attacks grow
A new {product} lets {tech_body} share {term} over {term}
The {term} could make {term} faster and cheaper, {sci_body} said
{firm} and {firm} will work together on {term} for the {product}
Sales of the {product} rose as {tech_body} moved to {term}
{sci_body_cap} fear that {science} could be wiped out by {science}
{firm} plans to add {term} to {product}, challenging {firm}
{tech_body_cap} have filed suit against users of {term} and {term}
The next generation of {term} will rely on {term}, says {firm}
The {term} of {space} has long puzzled {sci_body}
""")

HELDOUT_TITLES = words("""
{firm} brings {term} to {product}; {threat} puts {tech_body} at risk; {sci_body} learn more about {science}
First look at {firm} {product}; Pictures of {space} amaze {sci_body}; {product} now works with {term}
Can {term} save {science}?; {tech_body} complain about {product} {threat}
""")

HELDOUT_BODIES = words("""
People who use {product} should install the fix for the {threat}, {firm} has said
With its {product}, {firm} hopes to win over {tech_body} who care about {term}
New findings about {science} surprised {sci_body}, who had expected something else
The voyage to {space} took years, but {sci_body} now have their first data
""")
