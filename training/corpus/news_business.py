"""Word lists and templates for invented business news."""

from __future__ import annotations

from corpus.grammar import words

SLOTS: dict[str, list[str]] = {
    "company": words("""
Wal-Mart; Target; Sears; Kmart; Home Depot; Lowe's; Costco; J.C. Penney; Gap; Best Buy; Walgreen
Ford; General Motors; GM; Chrysler; DaimlerChrysler; Toyota; Nissan; Honda; Volkswagen; BMW; Fiat
Renault; Boeing; Airbus; Delta Air Lines; US Airways; United Airlines; American Airlines; Ryanair
Northwest; Continental; Alitalia; British Airways; Lufthansa; Qantas; Air Canada; JetBlue; EADS
Citigroup; J.P. Morgan; Bank of America; Wachovia; Wells Fargo; Goldman Sachs; Morgan Stanley
Merrill Lynch; Lehman; Bear Stearns; UBS; Credit Suisse; Deutsche Bank; HSBC; Barclays; ING; AIG
Marsh & McLennan; Aon; Prudential; MetLife; Allianz; Fannie Mae; Freddie Mac; Mitsubishi Tokyo
Merck; Pfizer; Johnson & Johnson; Eli Lilly; GlaxoSmithKline; Novartis; Roche; Sanofi; Bayer
AstraZeneca; Wyeth; Abbott; Guidant; Chiron; Coca-Cola; Pepsi; Procter & Gamble; Gillette; Nestle
Unilever; Kraft; Kellogg; General Mills; Altria; Philip Morris; Reynolds; Anheuser-Busch; Molson
Coors; Interbrew; Heineken; Diageo; McDonald's; Starbucks; Krispy Kreme; Wendy's; Exxon Mobil
Shell; BP; Total; Chevron; ConocoPhillips; Yukos; Gazprom; Rosneft; Lukoil; Halliburton; Enron
Tyco; WorldCom; MCI; Sprint; AT&T; Verizon; Cingular; Nextel; SBC; BellSouth; Qwest; Vodafone
Telecom Italia; France Telecom; Deutsche Telekom; Telstra; Nortel; Lucent; Alcatel; Siemens; Nokia
Disney; Time Warner; Viacom; Comcast; News Corp; Hollinger; Marks & Spencer; Tesco; Sainsbury
Carrefour; Ahold; Parmalat; Santander; Abbey National; Alcoa; BHP Billiton; Rio Tinto; Mittal
U.S. Steel; Caterpillar; Deere; 3M; General Electric; GE; Honeywell; Lockheed Martin; Raytheon
Martha Stewart Living; Oracle; PeopleSoft; Dow Chemical; DuPont; International Paper; FedEx; UPS
Lenovo; Samsung; LG; Sony; Hyundai; Kia; Mazda; Harley-Davidson; Nike; Adidas; Reebok; Mattel
{made} Corp.; {made} Inc.; {made} Group; {made} Holdings; {made} Bank; {made} Energy; {made} Foods
{made} Airlines; {made} Steel; {made} Pharmaceuticals; {made} & {made}; {made} PLC; {made} AG
"""),
    "market": words("""
stocks; U.S. stocks; shares; Wall Street; the Dow; the Nasdaq; the S&P 500; blue chips; bonds
Treasuries; the dollar; the euro; the yen; the pound; gold; crude; crude oil; oil; oil prices
oil futures; gasoline prices; natural gas; copper; the Nikkei; Tokyo stocks; the FTSE; the DAX
European shares; Asian stocks; tech stocks; bank shares; airline shares; retail stocks; commodities
"""),
    "move": words("""
rise; fall; climb; slip; gain; drop; tumble; surge; edge higher; edge lower; rally; retreat; sink
jump; ease; slide; close higher; close lower; end mixed; open higher; open lower; hit record high
hit three-month low; steady; rebound; fall sharply; extend gains; trim losses; plunge; soar
"""),
    "indicator": words("""
inflation; consumer prices; producer prices; jobless claims; unemployment; payrolls; jobs growth
retail sales; consumer confidence; factory orders; industrial output; housing starts; home sales
GDP; economic growth; the trade deficit; the current account deficit; the budget deficit
durable goods orders; interest rates; mortgage rates; wages; productivity; business investment
exports; imports; holiday sales; auto sales; new home sales; construction spending; the trade gap
"""),
    "result": words("""
profit; quarterly profit; third-quarter earnings; fourth-quarter loss; net income; revenue; sales
same-store sales; operating profit; annual profit; full-year forecast; earnings per share; outlook
quarterly loss; first-half profit; dividend; guidance
"""),
    "deal": words("""
merger; takeover; buyout; acquisition; $4.5 billion bid; hostile bid; joint venture; stake sale
initial public offering; IPO; share buyback; bond issue; spin-off; settlement; restructuring
bankruptcy plan; debt refinancing; $600 million deal; asset sale; licensing deal; rights issue
"""),
    "official": words("""
the Federal Reserve; the Fed; the central bank; the European Central Bank; the Bank of England
the Bank of Japan; the SEC; the Securities and Exchange Commission; the Treasury; the FTC; the FDA
the Commerce Department; the Labor Department; the IMF; the World Bank; OPEC; the WTO; regulators
the European Commission; the Justice Department; analysts; economists; investors; prosecutors
a federal judge; a bankruptcy court; the pilots union; the auto workers union; shareholders
"""),
    "term": words("""
profit; loss; earnings; shares; stock; stocks; investors; market; markets; price; prices; oil
barrel; crude; OPEC; output; supply; demand; inventories; refinery; pipeline; gasoline; heating oil
interest rate; rate hike; rate cut; inflation; economy; economic growth; recession; recovery; jobs
layoffs; job cuts; payroll; unemployment; union; strike; wage; pension; pensions; benefits; factory
plant; manufacturing; assembly line; car sales; automaker; airline; carrier; fare; fares; low-cost
bankruptcy; Chapter 11; creditors; debt; bonds; credit rating; downgrade; upgrade; analyst
forecast; outlook; quarter; quarterly; fiscal year; revenue; net income; dividend; buyback; merger
takeover; bid; stake; acquisition; deal; billion; million; IPO; offering; auction; underwriter
bank; banking; lender; mortgage; loan; insurer; insurance; broker; hedge fund; mutual fund
pension fund; asset; accounting; audit; fraud; accounting fraud; insider trading; probe; fine
settlement; lawsuit; antitrust; tariff; tariffs; subsidy; trade; exports; imports; deficit; surplus
currency; dollar; euro; yen; yuan; peg; central bank; Fed; chairman; chief executive; CEO; CFO
board; director; shareholder; investor; retailer; retail; store; stores; chain; supermarket
holiday shopping; consumer; consumers; spending; confidence; brand; advertising; drugmaker; drug
painkiller; recall; approval; patent expiry; generic; tobacco; brewer; beer; food maker; restaurant
fast food; hotel; casino; steel; steelmaker; aluminium; mining; mine; gold; copper; coal; utility
electricity; power plant; energy; natural gas; telecom; wireless carrier; cable; media; publisher
newspaper; studio; real estate; housing; home builder; property; rent; tax; tax cut; budget
outsourcing; offshore; contract; order; orders; supplier; shipping; freight; railroad; trucking
small business; startup funding; venture capital; private equity; bourse; trading; trader; futures
index; blue-chip; bull market; bear market; rally; sell-off; record high; valuation; overvalued
payout; severance; bonus; executive pay; whistleblower; subpoena; regulator; regulation; privatise
privatization; state-owned; stake sale; joint venture; expansion; China plant; cost cutting; savings
"""),
}

TITLES = words("""
{market} {move}; {market} {move} on {term}; {market} {move} after {indicator} data; {market} {move} as {market} {move}
{market} {move} ahead of {indicator}; {market} {move} on {company} news; {indicator} {move} in {month}
{company} {result} falls; {company} {result} rises; {company} {result} up {pct}; {company} {result} down {pct}
{company} posts {result}; {company} reports {result}; {company} warns on {result}; {company} cuts {result}
{company} to cut {number}00 jobs; {company} to close {number} plants; {company} to buy {company}
{company} in talks with {company}; {company} rejects {company} {deal}; {company} agrees {deal}
{company} files for bankruptcy; {company} shares {move}; {company} stock {move} on {result}
{company} names {person} chief executive; {company} CEO {surname} resigns; {company} chairman steps down
{official} raises interest rates; {official} probes {company}; {official} approves {company} {deal}
{official} warns on {indicator}; {official} says {indicator} {move}; {indicator} {move} {pct}
{company} sues {company} over {term}; {company} to pay $ {number} million in {term} case
{company} recalls {term}; {company} workers strike; {company} union backs {deal}; {company} {deal} nears
{nation_adj} economy grows {pct}; {nation_adj} {indicator} {move}; {nation_adj} {term} {move}
{term} worries hit {market}; {term} lifts {company}; {company} bets on {term}; {company} eyes {term}
{company} raises prices; {company} to sell {term} unit; {company} wins {term} contract
UPDATE {number}-{company} {result} {move}; {company} sees {result} below forecasts; {term} and {term}
{company}, {company} in {deal}; {surname} convicted of {term}; {term} trial of {company} executive
Before the bell: {company} shares {move}; Ahead of the bell: {company}; {term} {move} as {term} {move}
Update: {company} plans {deal}; {company} settles {term} probe; {company} holders approve {deal}
""")

BODIES = words("""
{market_cap} {move_s} on {day} as {market} moved and {official} said {indicator} was on the rise
{company} said on {day} its {result} rose {pct}, helped by {term} and {term}
{company} said {day} that {result} fell {pct} because of {term}
{company}, the world's largest {term} company, plans to cut {number}00 jobs
{company} agreed to buy {company} for ${number}.{number} billion in a {deal}
{market_cap} closed at ${number}.{number} a barrel after {official} spoke of {term}
{official_cap} said on {day} that {indicator} rose {pct} in {month}
Shares of {company} fell {pct} after the company warned about {result}
{company} shares rose {pct} in {day} trading after a {deal} with {company}
A former {company} executive was charged with {term} by {official}
{company} has named {person} as chief executive to replace {surname}
The {term} maker reported a {result} of ${number} million, or {number} cents a share
U.S. {indicator} {move_p} {pct} in {month}, the government said on {day}
Investors are worried about {term}, and {market} could suffer, {official} said
{company} will raise the price of its {term} by {pct}, blaming {term}
The {deal} between {company} and {company} would create a {term} giant
{nation_adj} {term} companies face {term} as {market} climbs
Workers at {company} voted to {strike} over {term} and {term}
{company} filed for Chapter 11 protection on {day}, hurt by {term} and high fuel costs
The {term} of {company} is under review by {official}
Analysts expect {result} of {number} cents a share at {company}
""")

HELDOUT_TITLES = words("""
Strong {indicator} sends {market} up; {company} shareholders wait for {deal}
{company} disappoints with weak {result}; Higher {term} costs squeeze {company}
{official} to rule on {company} {deal}; {company} shuts {number} stores amid weak {term}
{surname} to lead {company}; {market} under pressure from {term}
""")

HELDOUT_BODIES = words("""
Despite a rise in {indicator}, {company} expects its {result} to suffer next year
Traders said {market} may {move} again if {official} comments on {indicator}
{company} is ready to spend ${number} billion on the {deal}, according to {official}
The company, a maker of {term}, earned {number} cents a share and said {result} beat forecasts
""")
