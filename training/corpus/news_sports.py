"""Word lists and templates for invented sports news."""

from __future__ import annotations

from corpus.grammar import words

SLOTS: dict[str, list[str]] = {
    "team": words("""
Yankees; Red Sox; Mets; Cubs; Cardinals; Braves; Dodgers; Giants; Astros; Angels; Twins; Marlins
Phillies; Orioles; Mariners; Rangers; Padres; Athletics; White Sox; Indians; Tigers; Royals; Reds
Pirates; Brewers; Expos; Rockies; Diamondbacks; Blue Jays; Devil Rays; Nationals; Patriots; Eagles
Cowboys; Packers; Steelers; Colts; Jets; Dolphins; Bills; Ravens; Bengals; Browns; Titans; Jaguars
Texans; Broncos; Chiefs; Raiders; Chargers; Redskins; Vikings; Bears; Lions; Saints; Falcons
Panthers; Buccaneers; Rams; 49ers; Seahawks; Lakers; Celtics; Knicks; Pistons; Spurs; Pacers; Heat
Bulls; Nets; Sixers; Suns; Kings; Mavericks; Rockets; Timberwolves; Nuggets; Jazz; Sonics; Magic
Wizards; Hornets; Raptors; Bobcats; Clippers; Warriors; Trail Blazers; Grizzlies; Hawks; Bucks
Cavaliers; Maple Leafs; Canadiens; Bruins; Flyers; Penguins; Oilers; Flames; Canucks; Avalanche
Arsenal; Chelsea; Manchester United; Liverpool; Everton; Newcastle; Tottenham; Aston Villa
Real Madrid; Barcelona; Juventus; AC Milan; Inter Milan; Bayern Munich; Ajax; Porto; Celtic
Rangers; Monaco; Lyon; Valencia; Roma; Lazio; Werder Bremen; PSV Eindhoven; Benfica; Fulham
Southampton; Bolton; Middlesbrough; Charlton; Blackburn; Portsmouth; Crystal Palace; Leeds
Trojans; Sooners; Longhorns; Hurricanes; Seminoles; Gators; Bulldogs; Volunteers; Wolverines
Buckeyes; Badgers; Hokies; Tar Heels; Blue Devils; Huskies; Wildcats; Wallabies; Springboks
All Blacks; Notre Dame; Auburn; Oklahoma; Georgia Tech; Michigan State; Penn State; Duke
"""),
    "nation": words("""
Australia; England; India; Pakistan; South Africa; New Zealand; West Indies; Sri Lanka; Zimbabwe
Brazil; Argentina; Germany; France; Italy; Spain; Portugal; Netherlands; Greece; Sweden; Wales
Scotland; Ireland; Croatia; Russia; China; Japan; South Korea; Iraq; Paraguay; Cuba; Puerto Rico
Canada; United States; U.S.; Kenya; Ethiopia; Bangladesh; Romania; Belgium; Lithuania; Finland
"""),
    "athlete": words("""
{surname}; {surname}; {surname}; {surname}; {person}; {person}; {person}; rookie {surname}
veteran {surname}; injured {surname}; captain {surname}; coach {surname}; striker {surname}
top-seeded {surname}; defending champion {person}; quarterback {surname}; pitcher {surname}
"""),
    "role": words("""
quarterback; pitcher; striker; midfielder; goalkeeper; defender; coach; head coach; manager
outfielder; shortstop; first baseman; running back; wide receiver; linebacker; cornerback; center
point guard; forward; guard; catcher; closer; reliever; batsman; bowler; wicketkeeper; spinner
fly-half; winger; sprinter; swimmer; gymnast; cyclist; golfer; rower; skier; skater; boxer; hurdler
marathon runner; decathlete; shot putter; jockey; driver; goalie; defenseman; tight end; kicker
left-hander; right-hander; slugger; rookie; captain; skipper; referee; umpire; tackle; safety
"""),
    "event": words("""
the World Cup; the World Series; the Super Bowl; the Olympics; the Athens Olympics; the U.S. Open
the French Open; the Australian Open; Wimbledon; the Masters; the Ryder Cup; the PGA Championship
the British Open; the Davis Cup; the Champions League; the UEFA Cup; the Premier League; the FA Cup
the Stanley Cup; the NBA Finals; the playoffs; the AL Championship Series; the NL wild card race
the Tour de France; the Grand Prix; the Italian Grand Prix; the Daytona 500; the Ashes; the Test
the one-day series; the Champions Trophy; the Rugby World Cup; the Tri-Nations; the Paralympics
the World Championships; the Rose Bowl; the Orange Bowl; the Sugar Bowl; the Heisman Trophy
the season opener; the final; the semifinals; the quarterfinals; the first round; the third round
the 100-meter final; the 200 freestyle; the marathon; the pole vault; the high jump; the relay
the heavyweight title fight; the Kentucky Derby; the Belmont; Euro 2004; the World Cup qualifier
the Nextel Cup; the Masters Cup; the Ryder Cup; the NFC East; the AFC title game; the Big East
the ACC; the Big 12; spring training; training camp; the preseason; the All-Star Game; the draft
the Breeders' Cup; the Kremlin Cup; the Deutsche Bank Championship; the Carling Cup; the Serie A
La Liga; the Bundesliga; the NHL season; the WNBA playoffs; the college football season
"""),
    "medal": words("gold; silver; bronze; gold medal; silver medal; bronze medal; Olympic gold"),
    "score": words("""
3-2; 2-1; 1-0; 4-3; 5-1; 7-2; 10-4; 2-0; 3-0; 24-17; 31-10; 27-24; 17-14; 34-6; 98-91; 104-88
6-4, 6-3; 7-6, 6-4; 6-1, 6-2; 8-7; 11-5; 2-2; 1-1; 89-80; 41-38; 20-17; 112-99; 5-4; 6-0; 9-3
"""),
    "act": words("""
beat; defeat; down; rout; edge; top; stun; crush; hold off; upset; outlast; sweep; blank; shut out
thrash; sink; rally past; cruise past; rip; pound; hammer; drop; edge past; overcome; ease past
"""),
    "stat": words("""
scored two goals; hit a three-run homer; threw three touchdown passes; pitched a two-hitter
struck out eleven; rushed for 132 yards; had 28 points and nine rebounds; shot a 6-under 66
birdied the last hole; took five wickets; hit an unbeaten century; saved a penalty; homered twice
won in straight sets; scored the winner in injury time; finished with a triple-double
scored a hat trick; kicked a 42-yard field goal; drove in four runs; returned a punt for a score
broke the world record; won the pole position; took a two-shot lead; was sent off; was knocked out
snapped a five-game losing streak; clinched the division; won by six wickets; retired the side
caught a touchdown pass; made a leaping catch; intercepted two passes; equalised in the 89th minute
hit a grand slam; stole home; pitched seven scoreless innings; ran a personal best; led by a stroke
birdied four straight holes; captured the pole; lapped the field; dunked over the center
"""),
    "trouble": words("""
a knee injury; a hamstring injury; a torn ligament; a sprained ankle; a broken hand; a groin strain
a doping scandal; a failed drug test; a steroids inquiry; a two-game suspension; a contract dispute
a sore elbow; back pain; a shoulder operation; a red card; a three-match ban; a betting scandal
"""),
    "term": words("""
game; match; season; team; playoff; league; coach; player; inning; homer; home run; touchdown; goal
penalty; penalty kick; field goal; fumble; interception; overtime; extra time; halftime
fourth quarter; ninth inning; bullpen; rotation; batting; bowling; wicket; innings; over; century
birdie; bogey; eagle; putt; fairway; leaderboard; par; tee; golf; tennis; serve; set; tie-break
seed; baseline; ace; soccer; football; baseball; basketball; hockey; cricket; rugby; boxing
swimming; gymnastics; cycling; rowing; sailing; track and field; athletics; volleyball; wrestling
weightlifting; judo; fencing; badminton; table tennis; softball; beach volleyball; equestrian
Formula One; NASCAR; lap; pit stop; pole; qualifying; podium; medal; stadium; fans; bench; roster
lineup; starter; trade; free agent; signing; transfer; transfer fee; manager; dressing room; squad
captaincy; comeback; winning streak; losing streak; title; trophy; champion; championship; rout
shutout; draw; victory; defeat; win; loss; semifinal; final; opener; debut; record; undefeated
unbeaten; standings; division; conference; wild card; pennant; bowl game; tournament; round
heat; sprint; relay; lane; dope test; doping; steroids; lockout; NHL lockout; collective bargaining
salary cap; NFL; NBA; MLB; NHL; NCAA; FIFA; UEFA; IOC; ATP; WTA; PGA Tour; ICC; hamstring; knee
ankle; rehab; disabled list; suspension; ejected; brawl; foul; free throw; three-pointer; rebound
assist; dunk; slam dunk; block; tackle; sack; scrimmage; yardage; quarterback; backup; kickoff
punt; defense; offense; special teams; scoreless; hat trick; striker; header; corner; offside
goalkeeper; crossbar; relegation; derby; friendly; qualifier; Test; one-day; all-rounder; spin
fast bowler; follow-on; scrum; try; fly-half; knockout; heavyweight; middleweight; bout; ring
gold medalist; Olympian; torch; closing ceremony; opening ceremony; finish line; peloton; stage
yellow jersey; jockey; horse; thoroughbred; racetrack; marathon; triathlon; decathlon; long jump
high school football; college basketball; recruit; scholarship; Hall of Fame; MVP; Cy Young
rookie of the year; ballpark; locker room; clubhouse; mound; plate; outfield; bases loaded
"""),
}

TITLES = words("""
{team} {act} {team}, {score}; {team} {act} {team} {score}; {team} {act} {team}; {team} {score} {team}
{team} win again; {team} lose to {team} in overtime; {team} rally in ninth to {act} {team}
{athlete} leads {team} past {team}; {athlete} lifts {team} over {team}; {athlete} {stat}
{athlete} wins {medal} in {event}; {athlete} takes {medal}; {nation} win {medal} in {sport_bare}
{nation} {act} {nation} in {event}; {nation} {act} {nation} by {score}; {nation} on top in {event}
{athlete} out with {trouble}; {team} lose {role} to {trouble}; {role} {surname} sidelined by {trouble}
{athlete} signs with {team}; {team} sign {role} {person}; {team} trade {surname} to {team}
{team} fire coach {surname}; {team} name {person} as {role}; {athlete} set to join {team}
{athlete} advances to {event}; {athlete} reaches {event}; {athlete} knocked out of {event}
{athlete} retires after {event}; {athlete} quits as {nation} captain; {athlete} eyes {event}
{athlete} breaks world record; {athlete} wins {event}; {athlete} claims victory at {event}
NFL: {team} {act} {team}; NBA: {team} {act} {team}; {team} {role} fined; Notebook: {team} {term}
{sport_bare}: {athlete} wins {event}; {sport_bare}: {nation} {act} {nation}; {term} and {term}
{team} clinch {term}; {team} prepare for {event}; {team} face {team} in {event}; {term} troubles {team}
{team} fans celebrate {term}; {athlete} ready for {event}; {athlete} still chasing {medal}
{athlete} {stat} as {team} {act} {team}; {surname} and {surname} in {term} clash; {team} notes
{nation} name squad for {event}; {nation} coach {surname} quits; {nation} {score} {nation}
{athlete} fails drug test; {athlete} banned for {trouble}; {term} back for {athlete}
{team} stay perfect; {team} end {term} drought; {term}: {surname} {stat}; A {term} to remember
{team}' {surname} wins {term} award; {athlete} wins battle of {term}; {term} dispute hits {event}
{team} {term} shines; {team} {role} {stat}; {surname} shrugs off {trouble}; {surname} {stat}
""")

BODIES = words("""
{athlete} {stat} and the {team} beat the {team} {score} on {day}
{athlete} {stat} as {nation} {act} {nation} in {event} on {day}
{nation} won the {medal} in the {sport_bare} on {day}, with {athlete} and {surname} leading the way
The {team} signed {role} {person} to a {number}-year contract on {day}
{role_cap} {person} will miss {event} with {trouble}, the {team} said {day}
{team} {role} {person} {stat} in a {score} win over {team} {day} night
{person} {stat} to help the {team} to their {ordinal} straight victory
The {team} moved within a game of first place with a {score} win over the {team}
{person} of {nation} won {event} after {surname} was hampered by {trouble}
Defending champion {person} was knocked out of {event} by {person}, {score}
{team} manager {person} says his {term} must improve before {event}
{nation} coach {surname} has named a squad of {number} players for {event}
The {role} {stat} but the {team} still lost to {team}
{event_cap} begins on {day} with {person} among the favourites for the {medal}
The {term} of the {team} was the difference as they beat {team} {score}
Fans of the {team} waited all night to celebrate the {term}
{surname} has been suspended for {number} games for his part in a {term} incident
The {team} have agreed to trade {role} {surname} to the {team} for {role} {person}
With {number} seconds left, {surname} made the {term} that gave {team} the win
{team}'s hopes of reaching {event} suffered a blow when {surname} left with {trouble}
The league said {day} that the {term} would be reviewed after {surname} was ejected
No {role} has had a better {term} than {person}, who {stat} on {day}
He {stat}. It was the {ordinal} {term} of the season for the {role}
It was a night of {term} and {term} as {nation} {act} {nation}
""")

HELDOUT_TITLES = words("""
{surname} the hero as {team} {act} {team}; {team} too strong for {team} in {event}
Late {term} gives {nation} win over {nation}; {person} eases through to {event}
{team} hope {role} {surname} recovers from {trouble}; {nation} celebrate {medal} at last
{team} turn to {role} {person} for {event}; {surname} vows to return after {trouble}
""")

HELDOUT_BODIES = words("""
A crowd of 40,000 watched {person}, the {role}, as the {team} finally overcame the {team} {score}
Having lost their last {number} games, the {team} will be without {role} {surname} because of {trouble}
{person} {stat} for {nation}, which will now meet {nation} in {event}
Coach {person} praised the {term} of his side after the {team} won {score}
""")
