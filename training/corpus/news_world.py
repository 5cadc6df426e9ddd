"""Word lists and templates for invented world news."""

from __future__ import annotations

from corpus.grammar import words

SLOTS: dict[str, list[str]] = {
    "actor": words("""
rebels; militants; gunmen; insurgents; police; troops; soldiers; U.S. forces; U.S. troops
Israeli troops; Palestinian militants; Hamas; Hezbollah; Islamic Jihad; the Taliban; al-Qaida
Maoist rebels; Chechen rebels; Kurdish fighters; Shiite militia; Sunni clerics; peacekeepers
NATO; the U.N.; U.N. envoy; the Security Council; the European Union; the African Union; the Arab League
the Vatican; the Pope; the White House; the Pentagon; the Kremlin; the State Department; Congress
the opposition; opposition leader {surname}; President {surname}; Prime Minister {surname}
Foreign Minister {surname}; the foreign minister; the prime minister; the president; the king
the interior ministry; lawmakers; parliament; the Supreme Court; a military court; protesters
demonstrators; students; villagers; refugees; hostages; aid workers; diplomats; kidnappers
separatists; suicide bombers; warlords; border guards; the junta; the ruling party; exiles
Turkish government; the Iraqi government; the Afghan government; Iran's parliament; Sudanese militia
prosecutors; war crimes tribunal; the IAEA; inspectors; the Red Cross; paramilitaries; the coast guard
"""),
    "hotspot": words("""
Iraq; Baghdad; Fallujah; Najaf; Mosul; Basra; Kirkuk; Ramadi; Samarra; Gaza; the Gaza Strip
the West Bank; Jerusalem; Ramallah; Nablus; Jenin; Tel Aviv; Lebanon; Syria; Damascus; Tehran; Iran
Afghanistan; Kabul; Kandahar; Pakistan; Karachi; Islamabad; Peshawar; Kashmir; Srinagar; Nepal
Kathmandu; Sri Lanka; Bangladesh; Assam; Darfur; Sudan; Khartoum; Chad; Congo; Rwanda; Burundi
Uganda; Somalia; Ivory Coast; Liberia; Nigeria; Zimbabwe; Haiti; Venezuela; Colombia; Cuba; Chechnya
Grozny; Beslan; Georgia; South Ossetia; Abkhazia; Ukraine; Kiev; Belarus; Kosovo; Bosnia; Serbia
Turkey; Istanbul; Cyprus; North Korea; Pyongyang; Seoul; Taiwan; Beijing; Hong Kong; Tibet; Xinjiang
Myanmar; Thailand; southern Thailand; Aceh; Jakarta; Bali; the Philippines; Mindanao; Manila; Egypt
Sinai; Saudi Arabia; Riyadh; Yemen; Kuwait; Jordan; Northern Ireland; Madrid; Basque country; Spain
Rome; Paris; Moscow; Algeria; Libya; Western Sahara; Ethiopia; Eritrea; Guantanamo; Mexico; Brazil
Australia; Canberra; London; Brussels; The Hague; Strasbourg; Geneva; Vienna; Tokyo; New Delhi
"""),
    "attack": words("""
bomb; car bomb; roadside bomb; suicide bombing; blast; explosion; ambush; air strike; raid; attack
rocket attack; mortar attack; shooting; gun battle; clash; shelling; kidnapping; siege; massacre
assassination; grenade attack; missile strike; riot; crackdown; coup attempt; hostage crisis
train bombing; mosque attack; airstrike; helicopter crash; land mine
"""),
    "disaster": words("""
earthquake; hurricane; typhoon; tsunami; flood; floods; landslide; mudslide; cyclone; volcano
plane crash; train crash; ferry sinking; mine explosion; bus crash; fire; famine; drought; epidemic
cholera outbreak; tropical storm; heat wave; avalanche; wildfire; bird flu outbreak; stampede
"""),
    "talks": words("""
peace talks; ceasefire; cease-fire; truce; peace deal; peace process; nuclear talks; six-party talks
summit; election; elections; presidential election; runoff; referendum; vote; recount; cabinet
coalition; no-confidence vote; sanctions; resolution; embargo; nuclear program; uranium enrichment
weapons inspections; withdrawal; pullout; disengagement plan; security barrier; settlement plan
prisoner swap; hunger strike; state visit; constitution; human rights report; extradition; amnesty
war crimes trial; trial; genocide trial; inquiry; border dispute; accession talks; treaty; funeral
"""),
    "verb": words("""
kill; attack; storm; ambush; seize; free; release; condemn; reject; accept; threaten; warn; urge
denounce; support; meet; arrest; detain; accuse; blame; bomb; capture; surround; besiege; defy
"""),
    "nat": words("""
Iraqi; Israeli; Palestinian; Russian; Chinese; Iranian; Afghan; Pakistani; Indian; Turkish; French
German; British; Italian; Spanish; Polish; Ukrainian; Japanese; South Korean; North Korean; Sudanese
Nigerian; Egyptian; Saudi; Syrian; Lebanese; Jordanian; Haitian; Colombian; Venezuelan; Cuban; Thai
Indonesian; Philippine; Australian; Nepalese; Chechen; Kurdish; Serb; Bosnian; Greek; Cypriot; Dutch
Rwandan; Congolese; Ugandan; Burmese; Taiwanese; Malaysian; Chilean; Mexican; Canadian; American
"""),
    "term": words("""
killed; wounded; injured; dead; death toll; hostage; hostages; kidnapped; beheaded; beheading
militant; insurgency; rebel; troops; soldier; soldiers; army; military; war; peace; truce; ceasefire
bomb; bombing; suicide bomber; blast; explosion; gunfire; missile; rocket; tank; helicopter; convoy
checkpoint; border; refugee; refugees; camp; aid; humanitarian crisis; famine; United Nations; U.N.
Security Council; resolution; sanctions; nuclear weapons; uranium; inspector; embassy; ambassador
diplomat; diplomatic; foreign minister; prime minister; president; premier; chancellor; king; queen
prince; parliament; cabinet; coalition; opposition; election; elections; ballot; ballots; voters
polls; poll; campaign; candidate; inauguration; runoff; referendum; constitution; reform; corruption
protest; protesters; rally; demonstration; riot; strike; crackdown; curfew; martial law; coup; junta
dictator; exile; asylum; prisoner; prisoners; jail; prison; detainee; detainees; torture; abuse
Abu Ghraib; Guantanamo Bay; tribunal; court; trial; sentenced; death penalty; executed; genocide
war crimes; ethnic cleansing; mass grave; massacre; terror; terrorism; terrorist; al-Qaida; Osama bin Laden
Saddam Hussein; Arafat; Hamas; Hezbollah; Taliban; cleric; ayatollah; mosque; church; pope; bishop
Muslims; Christians; Shiite; Sunni; Kurds; Jews; Hindu; temple; settlers; settlement; Gaza; barrier
pullout; disengagement; intifada; road map; occupation; independence; separatist; autonomy; treaty
summit; talks; envoy; mediator; peacekeepers; NATO; European Union; EU; Commonwealth; embargo
earthquake; hurricane; typhoon; flood; storm; survivors; rescue; rescuers; crash; victims; mourning
funeral; anniversary; memorial; World War II; Holocaust; D-Day; apartheid; minister; ministry; mayor
governor; senator; Senate; Congress; White House; Bush; Kerry; Republicans; Democrats; debate
immigration; immigrants; smuggling; drug lord; cocaine; opium; gang; murder; police; suspect; arrest
evacuated; evacuation; bird flu; AIDS; malaria; outbreak; poverty; orphan; school siege; village
tribal; tribe; warlord; militia; Janjaweed; ally; allies; coalition forces; Marines; insurgents
offensive; stronghold; airstrike; car bombing; gunman; assassination; intelligence; spy; CIA; 9/11
"""),
}

TITLES = words("""
{attack} kills {number} in {hotspot}; {attack} in {hotspot} kills {number}; {number} dead in {hotspot} {attack}
{number} killed in {hotspot} {disaster}; {disaster} hits {hotspot}; {disaster} leaves {number} dead in {hotspot}
{actor} {verb} {actor} in {hotspot}; {actor} {verb} {actor}; {actor} {verb} {talks}; {actor} reject {talks}
{nat} {attack} wounds {number}; {nat} troops {verb} {actor}; {nat} leader urges {talks}; {nat} {talks} begins
{nat} president visits {hotspot}; {nat} prime minister {surname} resigns; {nat} minister in {hotspot} for {talks}
{hotspot} {talks} in doubt; {hotspot} {talks} set for {day}; {hotspot} holds {talks}; {talks} on {hotspot} stalls
U.N. calls for {talks} in {hotspot}; U.S. presses {hotspot} on {talks}; {hotspot} says no to {talks}
{surname} wins {nat} {talks}; {surname} sworn in as {nat} president; {surname} claims victory in {nat} {talks}
{nat} hostage freed in {hotspot}; {nat} hostages held in {hotspot}; {actor} threaten to kill {nat} hostage
{actor} protest in {hotspot}; thousands protest in {hotspot} over {talks}; {nat} court jails {surname}
{hotspot} marks anniversary of {attack}; {actor} deny role in {hotspot} {attack}; {term} in {hotspot}
{nat} {term} sparks {term}; {term} fears in {hotspot}; {term} and {term} in {hotspot}; {nat} {term}: {term}
{hotspot} {term} {term}; {actor} vow to continue {talks}; {nat} police arrest {number} over {attack}
{actor} free {number} {term}; {hotspot} urges {actor} to end {attack}; {nat} MPs approve {talks}
{surname}: {nat} {talks} must go on; {nat} voters go to polls; {term} for {nat} {term}; {actor} seek {talks}
{hotspot}'s {surname} faces {talks}; {nat} {term} dies; {nat} plane lands safely in {hotspot}
""")

BODIES = words("""
A {attack} killed at least {number} people in {hotspot} on {day}, {actor} said
{actor} {verb_p} {actor} in {hotspot} on {day}, killing {number} people
{actor} said on {day} that {talks} in {hotspot} would continue
{nat} President {person} arrived in {hotspot} on {day} for {talks} with {actor}
{nat} Prime Minister {surname} said {day} he would not accept {talks}
At least {number} people were killed when a {disaster} struck {hotspot}, officials said
Rescuers searched for survivors after a {disaster} in {hotspot} killed {number}
{nat} voters went to the polls on {day} in {talks} seen as a test for {actor}
{actor} have threatened to kill a {nat} hostage unless {actor} leave {hotspot}
Thousands of {nat} protesters marched in {hotspot} against {talks}
A {nat} court sentenced {person} to {number} years in prison for {term}
The {term} of {number} {nat} {term} has raised fears of {term} in {hotspot}
The {nat} government accused {actor} of {term} and {term}
U.S. forces fought {actor} near {hotspot}, and {number} {term} were reported
{person}, the {nat} foreign minister, met {actor} in {hotspot} to discuss {talks}
{actor} rejected {talks} on {day}, a day after {attack} left {number} dead
The {term} comes as {actor} prepare for {talks} in {hotspot}
{hotspot} has asked {actor} to help end the {term}
Clashes between {actor} and {actor} in {hotspot} left {number} wounded
The leader of {hotspot} has said {talks} will bring {term}
World leaders called for {talks} after the {attack} in {hotspot}
{nat} {term} and {nat} {term} were at the centre of {talks} on {day}
""")

HELDOUT_TITLES = words("""
New {attack} shakes {hotspot}; {actor} agree to {talks} in {hotspot}; {hotspot} mourns after {disaster}
Fresh {term} in {hotspot} threatens {talks}; {nat} leader {surname} survives {talks}
{number} feared dead after {hotspot} {disaster}; {actor} withdraw from {hotspot}
{nat} opposition calls for {talks}
""")

HELDOUT_BODIES = words("""
Officials in {hotspot} said that {actor} had been behind the {attack} in which {number} people died
Hopes for {talks} grew after {actor} and {actor} shook hands in {hotspot}
A senior {nat} official has denied that {actor} would leave {hotspot} before {talks}
Heavy rain slowed the search for {number} people missing since the {disaster} in {hotspot}
""")
