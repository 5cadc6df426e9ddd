"""Countries and their capitals: public facts, written down by hand.

Each line is ``name|capital|other names``. A country is asked about under every name, and
the answer repeats the name that was used.
"""

from __future__ import annotations

_TABLE = """
Afghanistan|Kabul
Albania|Tirana
Algeria|Algiers
Andorra|Andorra la Vella
Angola|Luanda
Antigua and Barbuda|Saint John's
Argentina|Buenos Aires
Armenia|Yerevan
Australia|Canberra
Austria|Vienna
Azerbaijan|Baku
the Bahamas|Nassau|Bahamas|The Bahamas
Bahrain|Manama
Bangladesh|Dhaka
Barbados|Bridgetown
Belarus|Minsk
Belgium|Brussels
Belize|Belmopan
Benin|Porto-Novo
Bhutan|Thimphu
Bolivia|Sucre
Bosnia and Herzegovina|Sarajevo|Bosnia
Botswana|Gaborone
Brazil|Brasília
Brunei|Bandar Seri Begawan
Bulgaria|Sofia
Burkina Faso|Ouagadougou
Burundi|Gitega
Cambodia|Phnom Penh
Cameroon|Yaoundé
Canada|Ottawa
Cape Verde|Praia|Cabo Verde
the Central African Republic|Bangui|Central African Republic
Chad|N'Djamena
Chile|Santiago
China|Beijing
Colombia|Bogotá
the Comoros|Moroni|Comoros
the Republic of the Congo|Brazzaville|Republic of the Congo|Congo-Brazzaville|Congo
the Democratic Republic of the Congo|Kinshasa|Democratic Republic of the Congo|DR Congo
Costa Rica|San José
Croatia|Zagreb
Cuba|Havana
Cyprus|Nicosia
the Czech Republic|Prague|Czech Republic|Czechia
Denmark|Copenhagen
Djibouti|Djibouti
Dominica|Roseau
the Dominican Republic|Santo Domingo|Dominican Republic
Ecuador|Quito
Egypt|Cairo
El Salvador|San Salvador
Equatorial Guinea|Malabo
Eritrea|Asmara
Estonia|Tallinn
Eswatini|Mbabane|Swaziland
Ethiopia|Addis Ababa
Fiji|Suva
Finland|Helsinki
France|Paris
Gabon|Libreville
the Gambia|Banjul|Gambia|The Gambia
Georgia|Tbilisi
Germany|Berlin
Ghana|Accra
Greece|Athens
Grenada|Saint George's
Guatemala|Guatemala City
Guinea|Conakry
Guinea-Bissau|Bissau
Guyana|Georgetown
Haiti|Port-au-Prince
Honduras|Tegucigalpa
Hungary|Budapest
Iceland|Reykjavík
India|New Delhi
Indonesia|Jakarta
Iran|Tehran
Iraq|Baghdad
Ireland|Dublin
Israel|Jerusalem
Italy|Rome
Ivory Coast|Yamoussoukro|Côte d'Ivoire
Jamaica|Kingston
Japan|Tokyo
Jordan|Amman
Kazakhstan|Astana
Kenya|Nairobi
Kiribati|South Tarawa
Kosovo|Pristina
Kuwait|Kuwait City
Kyrgyzstan|Bishkek
Laos|Vientiane
Latvia|Riga
Lebanon|Beirut
Lesotho|Maseru
Liberia|Monrovia
Libya|Tripoli
Liechtenstein|Vaduz
Lithuania|Vilnius
Luxembourg|Luxembourg
Madagascar|Antananarivo
Malawi|Lilongwe
Malaysia|Kuala Lumpur
the Maldives|Malé|Maldives
Mali|Bamako
Malta|Valletta
the Marshall Islands|Majuro|Marshall Islands
Mauritania|Nouakchott
Mauritius|Port Louis
Mexico|Mexico City
Micronesia|Palikir|the Federated States of Micronesia
Moldova|Chișinău
Monaco|Monaco
Mongolia|Ulaanbaatar
Montenegro|Podgorica
Morocco|Rabat
Mozambique|Maputo
Myanmar|Naypyidaw|Burma
Namibia|Windhoek
Nauru|Yaren
Nepal|Kathmandu
the Netherlands|Amsterdam|Netherlands|Holland
New Zealand|Wellington
Nicaragua|Managua
Niger|Niamey
Nigeria|Abuja
North Korea|Pyongyang
North Macedonia|Skopje|Macedonia
Norway|Oslo
Oman|Muscat
Pakistan|Islamabad
Palau|Ngerulmud
Palestine|Ramallah
Panama|Panama City
Papua New Guinea|Port Moresby
Paraguay|Asunción
Peru|Lima
the Philippines|Manila|Philippines
Poland|Warsaw
Portugal|Lisbon
Qatar|Doha
Romania|Bucharest
Russia|Moscow
Rwanda|Kigali
Saint Kitts and Nevis|Basseterre
Saint Lucia|Castries
Saint Vincent and the Grenadines|Kingstown
Samoa|Apia
San Marino|San Marino
São Tomé and Príncipe|São Tomé|Sao Tome and Principe
Saudi Arabia|Riyadh
Senegal|Dakar
Serbia|Belgrade
the Seychelles|Victoria|Seychelles
Sierra Leone|Freetown
Singapore|Singapore
Slovakia|Bratislava
Slovenia|Ljubljana
the Solomon Islands|Honiara|Solomon Islands
Somalia|Mogadishu
South Africa|Pretoria
South Korea|Seoul
South Sudan|Juba
Spain|Madrid
Sri Lanka|Sri Jayawardenepura Kotte
Sudan|Khartoum
Suriname|Paramaribo
Sweden|Stockholm
Switzerland|Bern
Syria|Damascus
Taiwan|Taipei
Tajikistan|Dushanbe
Tanzania|Dodoma
Thailand|Bangkok
Timor-Leste|Dili|East Timor
Togo|Lomé
Tonga|Nukuʻalofa
Trinidad and Tobago|Port of Spain
Tunisia|Tunis
Turkey|Ankara|Türkiye
Turkmenistan|Ashgabat
Tuvalu|Funafuti
Uganda|Kampala
Ukraine|Kyiv
the United Arab Emirates|Abu Dhabi|United Arab Emirates|UAE|the UAE
the United Kingdom|London|United Kingdom|UK|the UK|Great Britain
the United States|Washington, D.C.|United States|USA|the USA|the United States of America
Uruguay|Montevideo
Uzbekistan|Tashkent
Vanuatu|Port Vila
Vatican City|Vatican City|the Vatican
Venezuela|Caracas
Vietnam|Hanoi
Yemen|Sana'a
Zambia|Lusaka
Zimbabwe|Harare
"""


def _parse() -> dict[str, tuple[str, tuple[str, ...]]]:
    rows = (line.split("|") for line in _TABLE.strip().splitlines())
    return {name: (capital, tuple(others)) for name, capital, *others in rows}


# Main name -> (capital, other names).
COUNTRIES: dict[str, tuple[str, tuple[str, ...]]] = _parse()

# Every accepted name -> capital.
CAPITAL_OF: dict[str, str] = {
    alias: capital
    for name, (capital, others) in COUNTRIES.items()
    for alias in (name, *others)
}
