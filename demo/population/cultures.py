"""Where the demo's people live and what they are called; data only."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Culture:
    """One country's people: `weight` is its share among all."""

    country: str
    region: str
    weight: int
    phone: str
    """How a mobile number looks: # is a digit."""
    first_names: tuple[str, ...]
    last_names: tuple[str, ...]
    streets: tuple[str, ...]
    cities: tuple[tuple[str, str], ...]
    """City and how its postal codes look: # is a digit, @ a letter."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(","))


def _cities(text: str) -> tuple[tuple[str, str], ...]:
    return tuple((c.partition("=")[0].strip(), c.partition("=")[2].strip()) for c in text.split(","))


CULTURES = (
    Culture(
        "GB", "EMEA", 21, "+44 7700 900###",
        _words("Amelia, Oliver, Isla, George, Ava, Noah, Niamh, Rhys, Siân, Callum, Zoë, Harry, Priya, Yusuf"),
        _words("Smith, Jones, Taylor, O'Connor, Patel, Evans, MacDonald, Hughes, Khan, Fitzgerald-Wood, Brontë"),
        _words("High Street, Station Road, Church Lane, Victoria Road, Mill Lane, Queen's Road"),
        _cities("London=SW# #@@, Manchester=M# #@@, Leeds=LS# #@@, Cardiff=CF# #@@, Glasgow=G# #@@"),
    ),
    Culture(
        "DE", "EMEA", 14, "+49 1512 #######",
        _words("Jürgen, Käthe, Lukas, Mia, Björn, Anneliese, Sören, Lena, Günther, Jonas, Emilia, Matthäus"),
        _words("Müller, Schröder, Weiß, Schäfer, Köhler, Fischer, Groß, von der Heide, Yılmaz, Becker"),
        _words("Hauptstraße, Bahnhofstraße, Gartenweg, Schloßallee, Lindenstraße"),
        _cities("Berlin=10###, München=80###, Köln=50###, Düsseldorf=40###, Görlitz=02###"),
    ),
    Culture(
        "FR", "EMEA", 9, "+33 6 ## ## ## ##",
        _words("Chloé, Jérôme, Léa, François, Anaïs, Gaël, Zoé, Théo, Maëlle, Loïc, Inès"),
        _words("Lefèvre, Dubois, Garçon, Moreau, d'Alençon, Benoît, Traoré, Petit, Le Goff"),
        _words("rue de la Paix, avenue Foch, rue des Écoles, boulevard Voltaire"),
        _cities("Paris=750##, Lyon=690##, Nîmes=30###, Besançon=25###"),
    ),
    Culture(
        "PL", "EMEA", 5, "+48 600 ### ###",
        _words("Łukasz, Małgorzata, Paweł, Żaneta, Michał, Agnieszka, Grażyna, Wojciech"),
        _words("Wiśniewska, Kowalczyk, Wójcik, Dąbrowski, Zieliński, Źrebiec"),
        _words("ulica Długa, ulica Świętokrzyska, aleja Róż"),
        _cities("Kraków=30-###, Łódź=90-###, Gdańsk=80-###"),
    ),
    Culture(
        "GR", "EMEA", 3, "+30 690 ### ####",
        _words("Σοφία, Γιώργος, Ελένη, Νίκος, Κατερίνα"),
        _words("Παπαδόπουλος, Γεωργίου, Νικολάου, Οικονόμου"),
        _words("Ερμού, Σταδίου, Αθηνάς"),
        _cities("Αθήνα=10# ##, Θεσσαλονίκη=54# ##"),
    ),
    Culture(
        "US", "NA", 17, "+1 202 555 01##",
        _words("Emma, Liam, Olivia, Mateo, Sophia, Jackson, Ximena, DeShawn, Grace, Ethan, Aaliyah, Wyatt"),
        _words("Johnson, Williams, García, Nguyen, Davis, McAllister, Washington, Lee, O'Neil, Kowalski"),
        _words("Main Street, 2nd Avenue, Oak Drive, Sunset Boulevard, Park Place"),
        _cities("Austin=787##, Chicago=606##, Seattle=981##, Boston=021##, San José=951##"),
    ),
    Culture(
        "CA", "NA", 5, "+1 613 555 01##",
        _words("Noémie, William, Charlotte, Étienne, Liam, Zoé"),
        _words("Tremblay, Côté, Macdonald, Singh, Bélanger, Wong"),
        _words("rue Saint-Denis, King Street, Queen Street"),
        _cities("Montréal=H#@ #@#, Toronto=M#@ #@#, Québec=G#@ #@#"),
    ),
    Culture(
        "BR", "LATAM", 5, "+55 11 9####-####",
        _words("João, Conceição, Thaís, Antônio, Letícia, Caio, Luísa"),
        _words("Gonçalves, Araújo, dos Santos, Conceição, Magalhães, Simões"),
        _words("Avenida Paulista, Rua das Flores, Rua São João"),
        _cities("São Paulo=01###-###, Brasília=70###-###, Goiânia=74###-###"),
    ),
    Culture(
        "MX", "LATAM", 3, "+52 55 #### ####",
        _words("José, María Fernanda, Íñigo, Lucía, Raúl, Begoña"),
        _words("Hernández, Muñoz, Núñez, Rodríguez, Peña"),
        _words("Calle Hidalgo, Avenida Juárez, Paseo de la Reforma"),
        _cities("Ciudad de México=06###, Mérida=97###, León=37###"),
    ),
    Culture(
        "IN", "APAC", 9, "+91 98### #####",
        _words("Aarav, Ananya, आरव, प्रिया, Vihaan, Lakshmi, Arjun, Meera"),
        _words("Sharma, Iyer, शर्मा, Chatterjee, Reddy, D'Souza"),
        _words("MG Road, Park Street, Linking Road"),
        _cities("Mumbai=400###, Bengaluru=560###, Kolkata=700###"),
    ),
    Culture(
        "JP", "APAC", 4, "+81 90-####-####",
        _words("さくら, 翔太, 美咲, 健一, ゆい, 大輔"),
        _words("佐藤, 鈴木, 高橋, 田中, 渡辺, 𠮷田"),
        _words("銀座一丁目, 本町二丁目, 桜通り"),
        _cities("東京=1##-####, 大阪=5##-####, 京都=6##-####"),
    ),
    Culture(
        "CN", "APAC", 3, "+86 138 #### ####",
        _words("伟, 芳, 秀英, 娜, 敏, 静"),
        _words("王, 李, 张, 刘, 陈, 欧阳"),
        _words("人民路, 解放大道, 中山路"),
        _cities("上海=2000##, 北京=1000##, 广州=5100##"),
    ),
    Culture(
        "AE", "EMEA", 2, "+971 50 ### ####",
        _words("محمد, فاطمة, عمر, ليلى, يوسف"),
        _words("الهاشمي, المنصوري, خليل, العلي"),
        _words("شارع الشيخ زايد, شارع الوصل"),
        _cities("دبي=00000, أبوظبي=00000"),
    ),
)  # fmt: skip
