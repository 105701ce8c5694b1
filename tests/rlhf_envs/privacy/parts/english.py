"""Sentences of English messages, for `held_out.py`: {kind:form} stands for private data, {no:form} for what is none."""

from __future__ import annotations

from tests.rlhf_envs.privacy.parts.scenes import Scene

SERVICE = (
    "{body}",
    "{body}",
    "{body}\n\nThanks",
    "Customer: {body}\nAgent: Thank you, let me check that for you.",
    "Agent: How can I help?\nCustomer: {body}",
    "Subject: Re: Ticket #{no:small}21\n\nDear team,\n\n{body}\n\nKind regards,\nM. Haines",
    "Ticket T-{no:small}7 (opened {no:day}, priority 2)\n{body}",
    "> on {no:day} you wrote:\n> please send us the details\n\n{body}",
    "[{no:stamp}] visitor: {body}",
)
DEV = (
    "{body}",
    "{body}",
    "{body}\nany ideas?",
    "{no:handle} wrote:\n{body}",
    "[{no:hour}] ops-bot: incident 3 opened\n[{no:hour}] me: {body}",
    "### Steps\n1. update to {no:build}\n2. restart\n\n{body}",
)
FORUM = (
    "{body}",
    "{body}",
    "{no:handle} wrote:\n{body}",
    "Posted {no:day}, {no:hour}\n{body}",
    "{body}\n\ncheers",
    "Re: last week's thread (page 2 of 14)\n\n{body}",
)

SHOP = Scene(
    frames=(*SERVICE, "ORDER CONFIRMATION {no:order}\n2 x mug, {no:measure}: {no:price}\n{body}\nTotal: {no:price}"),
    opening=(
        "Hi, my parcel still hasn't turned up.", "The kettle I bought from you has stopped working.",
        "I'd like to return a jacket that doesn't fit.", "Any news on my refund?", "I was charged twice!",
        "Hello there, quick question about my last order.", "third time I'm writing about this now...",
    ),
    private=(
        "You can reach me on {phone} after six.", "My number is {phone}, please text rather than call.",
        "Please send the return label to {email}, not to the old address.", "The account is under {email}.",
        "I paid with {card}, expiry {no:expiry}.", "The refund should go to card {card}.",
        "card no {card} exp {no:expiry}", "If you can't refund the card, my IBAN is {iban}.", "Tel: {phone}",
        "call me back at {phone} or {phone}", "Driver can ring my wife ({phone}) if I'm out.", "e-mail:{email}",
        "I already wrote from {email} and from {email}, nobody answered.", "whatsapp me {phone:in}",
        "The card I used was {card} and not the other one.", "Shop phone in Munich was {phone:de}, nobody picks up.",
        "Amount goes back to {iban} please.", "Mobile {phone:gb}, landline {phone:gb}.",
        "my login is {email} and the password {key:password}, have a look yourself", "Phone:{phone:us};Email:{email}",
        "Agent: Which number can we call?\nCustomer: {phone}", "Agent: And your e-mail address?\nCustomer: {email}",
        "Agent: Please type the card number.\nCustomer: {card}",
    ),
    public=(
        "Order {no:order} was placed on {no:day}.",
        "The tracking page for {no:tracking} hasn't changed since {no:hour}.",
        "I was charged {no:price} instead of {no:price}.", "It's the {no:measure} model, {no:sku}.",
        "The card ending in {no:ending} was charged twice.", "The courier came at {no:hour}, postcode {no:postcode}.",
        "The serial number on the back is {no:serial}.", "I got {no:percent} off, so it should be {no:price}.",
        "The colour on your site was {no:colour}, this is not it.", "The link {no:url} gives me a 404.",
        "I forgot my password and the reset link has expired.", "The batch printed on the box is {no:batch}.",
        "Is the size chart at {no:url} right?", "You deliver to {no:postcode}, don't you?",
        "Invoice {no:order}, dated {no:day}.", "I bought 2 @ {no:price} each.",
        "Look at me, waiting at home since {no:hour} for nothing.",
    ),
)  # fmt: skip

BANK = Scene(
    frames=SERVICE,
    opening=(
        "There is a payment on my statement that I don't recognise.", "I'd like to set up a standing order.",
        "my transfer has been pending for a week", "Please update the details that you hold for us.",
        "I need the annual statement for my tax return.", "Question about the fees on my account.",
    ),
    private=(
        "The money should arrive on {iban}.", "From {iban} to {iban}, {no:price}, on {no:day}.", "IBAN: {iban}",
        "Our account is {iban}, BIC on request.", "My card {card} was declined at {no:hour}.",
        "Please block card {card} at once, it was stolen.", "SSN {national_id:us}, as on the W-9.",
        "My social security number is {national_id:us}.", "NI number: {national_id:gb}",
        "my nino is {national_id:gb} btw", "German tax ID {national_id:de}.",
        "Steuer-ID: {national_id:de}, I live in Bremen now.", "my DNI/NIE is {national_id:es}",
        "Codice fiscale {national_id:it}", "BSN {national_id:nl}, see passport.", "Personnummer: {national_id:se}",
        "numéro de sécurité sociale {national_id:fr}", "NIR: {national_id:fr}",
        "Use {email} for statements from now on.", "The bank called me from {phone}, was that really you?",
        "Card: {card}\nValid thru: {no:expiry}", "Best number is {phone}.",
        "Chinese ID card of my husband: {national_id:cn}", "The last login was from {ip}, which is not me.",
        "TIN (Spain): {national_id:es}", "Agent: What is the IBAN?\nCustomer: {iban}",
        "name;phone;iban\nHaines;{phone};{iban}", "Agent: And your SSN?\nCustomer: {national_id:us}",
    ),
    public=(
        "The amount was {no:price}, not {no:price}.", "Rates went from {no:percent} to {no:percent} in {no:year}.",
        "The booking date is {no:day}.", "I hold 40 shares of {no:stock}, bought at {no:price}.",
        "The transaction id is {no:uuid}.", "Statement no. {no:order} shows it.", "The terminal printed {no:serial}.",
        "The card ending {no:ending} is fine.", "Form 1099 and form W-9 are attached.", "Reference {no:serial}.",
        "My branch closes at {no:hour}.", "Please do not ask for my PIN or password.", "FY 2026-27, quarter 3.",
        "The limit is {no:price} per day.", "It needs 22 characters, e.g. DE followed by 20 digits.",
    ),
)  # fmt: skip

OPS = Scene(
    frames=DEV,
    opening=(
        "Deploy failed again, see below.", "anyone else seeing timeouts this morning?",
        "The API returns 401 since the update.", "I can't get the client to connect.", "Here is what I run:",
        "Found this in the build output:", "so I pasted the config:",
    ),
    private=(
        "api_key={key:secret}", 'export OPENAI_API_KEY="{key:openai}"', "AWS_ACCESS_KEY_ID={key:aws}", "token: {key}",
        "password: {key:password}", 'curl -H "Authorization: Bearer {key:jwt}" {no:repo}',
        "DB_PASSWORD={key:password}", "the key is {key} but it still says 403",
        "postgres://app:{key:password}@db.internal:5432/shop", '{"user": "svc", "secret": "{key:secret}"}',
        "I left {key} in the repo, sorry", "the server is {ip}, ssh on port 2222", "from {ip:4}:{no:port}",
        "blocked {ip} and {ip} at the firewall", "ping {ip} works, curl http://[{ip:6}]:8080/ does not",
        "Failed password for root from {ip} port {no:port} ssh2",
        '{ip} - - [12/Mar/2024:10:02:11 +0000] "GET /v2/items?page=3 HTTP/1.1" 200 5316',
        "A record points to {ip:4}, AAAA to {ip:6}.", "the on-call phone is {phone}", "mail me the dump: {email}",
        "git config user.email {email}", "pw for the staging box is {key:password}",
        "client={ip} user={email} status=403", 'client_secret: "{key:secret}"', "X-Api-Key: {key:secret}",
        '{"id": 4821, "email": "{email}", "phone": "{phone:us}", "ip": "{ip}"}',
        "id,email,last_ip\n17,{email},{ip}\n18,{email},{ip}",
    ),
    public=(
        "commit {no:hash} broke it, {no:hash} was fine", "image {no:sha}", "We are on {no:build}.",
        "request id {no:uuid}", "trace={no:trace}", "api_key={no:placeholder}", "password: {no:placeholder}",
        "{no:stamp} INFO worker started in 3.214s", "ts={no:epoch} level=warn retries=3", "see {no:repo}",
        "the error is in {no:code}", "OID {no:oid}", "It happens at {no:percent} CPU.",
        "see section {no:section} of the manual", "color: {no:colour};", "passwords must have 12 characters",
        "line 1042, column 17, exit code 137", "Chrome/120.0.0.0 on Windows NT 10.0",
        "the token expired after {no:hour}", "thanks {no:handle}!", "PR #4821 fixes that", "ETag: \"{no:hash}\"",
        "rtt min/avg/max = 11.2/12.9/15.0 ms",
    ),
)  # fmt: skip

TRIP = Scene(
    frames=SERVICE,
    opening=(
        "We'd like to change our booking.", "Is breakfast included?", "Our flight was cancelled last night.",
        "I left my glasses in room 412.", "Hello, a question about the tour in May.", "Landed, finally.",
    ),
    private=(
        "If we're late, call {phone}.", "My Indian number is {phone:in}, the German one {phone:de}.",
        "Confirmation goes to {email}, please.", "In Berlin we're at {phone:de}, in London at {phone:gb}.",
        "Charge it to {card} ({no:expiry}).", "The guide's number: {phone}.", "Deposit to {iban}.",
        "Text me ({phone:us}) when you land.", "Write to {email} or {email}.", "Guest 2: {email}, {phone}",
        "The hotel wants my DNI, it's {national_id:es}.", "For the visa form: {national_id:cn}.",
        "My tel.{phone}, any time",
    ),
    public=(
        "Flight {no:flight} leaves at {no:hour} on {no:day}.", "Booking reference {no:code6}.",
        "The hut is at {no:place}.", "It was {no:measure} up there.",
        "The ticket was {no:price}, now it's {no:price}.", "We meet at {no:hour} at the station.",
        "Ticket {no:serial}.", "Map: {no:url}", "Rooms 301-304, floor 3.", "It's at 221 Baker Street, {no:postcode}.",
        "Gate B42, seat 17C.", "The trail is 14.2 km with 1,150 m up.", "In {no:year} it cost half.",
        "In an emergency dial 112 or 911.", "The rate was 1 EUR = 1.0842 USD.",
        "The score was 6-4 7-5 when it rained.",
    ),
)  # fmt: skip

CHAT = Scene(
    frames=FORUM,
    opening=(
        "Has anyone read this one?", "Good morning all!", "Planning the hike for Saturday!", "Long time no see.",
        "Minutes of today's meeting:", "Re: your question in the forum", "Notes for the reading group.",
        "Selling my old bike, hardly used.", "New here, hi.",
    ),
    private=(
        "PM me or write to {email}.", "Call me: {phone}", "{email} is the list's address",
        "My new mobile is {phone}.", "Contact: {email} / {phone}", "Anyone interested: {phone}, ask for me.",
        "Donations to {iban}.", "wifi password: {key:password}", "Join with <{email}>.", "old number {phone} is gone",
        "somebody from {ip} keeps spamming the wiki", "Attendees: {email}, {email}; {email}", "(mailto:{email})",
        "Ping me at {email}!",
    ),
    public=(
        "We start with {no:verse}.", "ISBN {no:isbn}, about {no:price}.", "See {no:doi}.",
        "Follow {no:handle} for more.", "It's from {no:year}, 2nd edition, pp. 112-148.",
        "Next meeting {no:day}, {no:hour}.", "I laughed at that, at length.", "{no:stock} fell {no:percent} today.",
        "The paint is {no:colour}.", "Frame 56 cm, {no:measure}.", "Part {no:part} fits too.",
        "posted at {no:hour} at the latest", "{no:url}", "Population 1,417,173,173 in {no:year}.",
        "Pi is 3.14159265358979.", "He ran 26.2 miles in 2:58:41.", "Error code 0x80070057, any ideas?",
        "the file is IMG_20240312_184522.jpg", "Lottery: 04 11 19 27 38 42.", "1-2-3-4, and one more time!",
    ),
)  # fmt: skip

SCENES = (SHOP, BANK, OPS, TRIP, CHAT)
