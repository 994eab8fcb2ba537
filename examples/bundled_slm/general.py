"""General agent work around the demo: extraction, classification, tool choice, tool results, copying.

Everything is composed from small tables and invented values. The held-out split uses other names,
cities, products and id shapes, sentences that training never shows, and verb-object pairs that no
training tool has.
"""

from __future__ import annotations

import json
import random
from typing import Any

import values
from chat import Example, Message, Tool, call, compact, dumps, function_tool, graph_messages
from tasks import parameters, tool_result, varied_crew
from tickets_varied import FRAMES

from slm_adapters.demo.tickets import Split, fill, pick

# key variants | description | kind | English sentences | Japanese sentences; the last sentence of
# each language is held out.
CONCEPTS: tuple[tuple[str, str, str, tuple[str, ...], tuple[str, ...]], ...] = (
    (
        "sender name from_name customer person",
        "who wrote it",
        "name",
        ("My name is {}.", "I am {}.", "This is {} writing.", "Signed: {}", "Regards, {}"),
        ("{}と申します。", "私は{}です。", "差出人: {}", "{}より"),
    ),
    (
        "contact contact_person responsible manager",
        "the person to contact",
        "name",
        (
            "Please ask for {}.",
            "Our contact is {}.",
            "{} is responsible for it.",
            "The manager is {}.",
            "Talk to {} about it.",
        ),
        ("担当は{}です。", "責任者は{}さんです。", "窓口: {}", "{}までご連絡ください。"),
    ),
    (
        "company organisation firm employer",
        "the company",
        "company",
        (
            "I work for {}.",
            "We are {}.",
            "The firm is called {}.",
            "Company: {}",
            "I write on behalf of {}.",
        ),
        ("{}の者です。", "会社名は{}です。", "{}で働いています。", "勤務先: {}"),
    ),
    (
        "email mail email_address",
        "mail address",
        "email",
        (
            "My email is {}.",
            "Write to {}.",
            "You can mail me at {}.",
            "E-mail: {}",
            "Send the answer to {} please.",
        ),
        (
            "メールは{}です。",
            "{}までメールをください。",
            "メールアドレス: {}",
            "返信先は{}でお願いします。",
        ),
    ),
    (
        "phone phone_number tel telephone",
        "phone number",
        "phone",
        (
            "Call me at {}.",
            "My phone number is {}.",
            "Tel: {}",
            "You reach me under {}.",
            "Ring {} any time.",
        ),
        ("電話は{}です。", "電話番号: {}", "{}にお電話ください。", "連絡先の電話は{}になります。"),
    ),
    (
        "city town place location",
        "the city",
        "city",
        (
            "I live in {}.",
            "Our office is in {}.",
            "Please deliver it to {}.",
            "City: {}",
            "We are based in {}.",
        ),
        ("{}に住んでいます。", "事務所は{}にあります。", "届け先は{}です。", "所在地: {}"),
    ),
    (
        "order_id order_number order",
        "order number",
        "id",
        (
            "My order number is {}.",
            "It is about order {}.",
            "Order: {}",
            "Order no. {}",
            "The order has the id {}.",
        ),
        ("注文番号は{}です。", "注文番号: {}", "注文{}の件です。", "オーダーは{}になります。"),
    ),
    (
        "invoice_number invoice invoice_id bill_no",
        "invoice number",
        "id",
        (
            "The invoice number is {}.",
            "Invoice: {}",
            "I got invoice {}.",
            "See bill no. {}.",
            "You sent us the invoice {}.",
        ),
        (
            "請求書番号は{}です。",
            "請求書番号: {}",
            "請求書{}を受け取りました。",
            "請求書には{}とあります。",
        ),
    ),
    (
        "customer_id customer_number client_id",
        "customer number",
        "id",
        (
            "My customer number is {}.",
            "Customer id: {}",
            "I am customer {}.",
            "Client no. {}",
            "You know me as customer {}.",
        ),
        (
            "会員番号は{}です。",
            "お客様番号: {}",
            "顧客番号は{}になります。",
            "会員番号の欄には{}とあります。",
        ),
    ),
    (
        "tracking_number tracking tracking_id",
        "tracking number",
        "id",
        (
            "The tracking number is {}.",
            "Tracking: {}",
            "Tracking code {}.",
            "The parcel has the tracking id {}.",
            "It is tracked as {}.",
        ),
        (
            "追跡番号は{}です。",
            "追跡番号: {}",
            "荷物の番号は{}です。",
            "追跡には{}を使っています。",
        ),
    ),
    (
        "serial_number serial device_id",
        "serial number",
        "id",
        (
            "The serial number is {}.",
            "Serial no. {}",
            "On the back it says {}.",
            "S/N: {}",
            "Its serial number reads {}.",
        ),
        (
            "製造番号は{}です。",
            "シリアル番号: {}",
            "裏に{}と書いてあります。",
            "シリアルは{}でした。",
        ),
    ),
    (
        "product item article goods",
        "the product",
        "item",
        (
            "I bought a {}.",
            "It is about the {}.",
            "Product: {}",
            "I ordered the {}.",
            "My purchase was a {}.",
        ),
        ("{}を買いました。", "商品は{}です。", "品名: {}", "{}を購入しました。"),
    ),
    (
        "amount total price sum",
        "the sum of money",
        "amount",
        ("The total is {}.", "I paid {}.", "Amount: {}", "It cost {}.", "The price was {}."),
        ("金額は{}です。", "合計{}でした。", "{}を支払いました。", "代金: {}"),
    ),
    (
        "order_date date purchase_date ordered_on",
        "when it was ordered",
        "date",
        (
            "I ordered it on {}.",
            "Order date: {}",
            "Bought on {}.",
            "The order is from {}.",
            "I placed the order on {}.",
        ),
        ("{}に注文しました。", "注文日: {}", "購入日は{}です。", "注文は{}でした。"),
    ),
    (
        "due_date deadline due pay_by",
        "until when",
        "date",
        (
            "It is due on {}.",
            "The deadline is {}.",
            "Please pay by {}.",
            "Due date: {}",
            "We need it no later than {}.",
        ),
        ("期限は{}です。", "締め切り: {}", "{}までにお願いします。", "支払い期日は{}です。"),
    ),
    (
        "quantity count number_of_items pieces",
        "how many",
        "count",
        (
            "I need {} pieces.",
            "Quantity: {}",
            "We want {} of them.",
            "Please send {} units.",
            "It should be {} in all.",
        ),
        ("{}個お願いします。", "数量: {}", "{}個必要です。", "全部で{}個です。"),
    ),
    (
        "time hour start_time at",
        "time of day",
        "time",
        ("It starts at {}.", "Come at {}.", "Time: {}", "Let us meet at {}.", "We begin at {}."),
        ("{}に始まります。", "時間: {}", "{}に来てください。", "開始は{}です。"),
    ),
    (
        "coupon coupon_code promo_code voucher",
        "coupon code",
        "id",
        (
            "My coupon is {}.",
            "Coupon code: {}",
            "I used the promo code {}.",
            "Voucher {}.",
            "The coupon says {}.",
        ),
        (
            "クーポンは{}です。",
            "クーポンコード: {}",
            "{}というクーポンを使いました。",
            "クーポンには{}とあります。",
        ),
    ),
    (
        "project code_name topic project_name",
        "name of the project",
        "word",
        (
            "The project is called {}.",
            "Project: {}",
            "It belongs to project {}.",
            "We named it {}.",
            "The project goes by {}.",
        ),
        (
            "プロジェクト名は{}です。",
            "プロジェクト: {}",
            "案件名は{}です。",
            "{}という案件の話です。",
        ),
    ),
)
JAPANESE_NOUNS = {
    "sender": "[差出人|名前|氏名|お名前]", "contact": "[担当者|担当|責任者|窓口]", "company": "[会社|会社名|勤務先|社名]",
    "email": "[メール|メールアドレス|アドレス]", "phone": "[電話|電話番号|連絡先]", "city": "[町|市|場所|住所|都市]",
    "order_id": "[注文番号|注文|オーダー]", "invoice_number": "[請求書|請求書番号|請求番号]", "customer_id": "[会員番号|お客様番号|顧客番号]",
    "tracking_number": "[追跡番号|追跡|荷物番号]", "serial_number": "[製造番号|シリアル|シリアル番号]", "product": "[商品|品名|商品名|購入品|品物]",
    "amount": "[金額|合計|代金|値段]", "order_date": "[注文日|購入日|注文]", "due_date": "[期限|締め切り|期日|支払い期日]",
    "quantity": "[数量|個数|数]", "time": "[時間|開始|時刻|開始時間]", "coupon": "[クーポン|クーポンコード]", "project": "[プロジェクト|案件|案件名]",
}  # fmt: skip
FILLER = {
    "en": ("I hope you are well.", "Thank you in advance.", "The weather is nice today.", "Please answer soon.",
           "We talked about it last week.", "Have a good day.", "Sorry for the long mail.", "Best wishes."),
    "ja": ("お世話になっております。", "よろしくお願いいたします。", "今日は天気がいいですね。", "先日はありがとうございました。",
           "ご返信をお待ちしております。", "長文失礼しました。", "お手数をおかけします。"),
}  # fmt: skip

# label variants | meaning | English sentences | Japanese sentences; the last two sentences are held
# out. {} is an invented or known name, product or town.
TOPICS: tuple[tuple[str, str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("praise positive happy", "the writer is pleased",
     ("I love the {item}, it is [great|wonderful|perfect].", "[Great|Excellent|Fantastic] service, thank you.",
      "The {item} works [very well|perfectly] and I am happy.", "Best shop ever, I recommend it.",
      "{name} was very friendly and helped me.", "What a wonderful {item}, I am pleased.",
      "I am very happy with the {item}.", "Friendly service and a perfect {item}, thank you."),
     ("{item}は[最高|素晴らしい|とても良い]です。", "とても満足しています。", "親切な対応で嬉しかったです。", "{item}を買って良かったです。",
      "{item}は素晴らしい、大満足です。", "とても親切で、良い店です。")),
    ("complaint negative angry", "the writer is unhappy",
     ("I hate the {item}, it is [awful|terrible|bad].", "[Bad|Terrible|Worst] service, never again.",
      "The {item} is a waste of money and I am angry.", "I am [disappointed|very unhappy].",
      "{name} was rude and did not help.", "What a bad {item}, I am annoyed.",
      "I am very disappointed with the {item}.", "Rude service and an awful {item}, never again."),
     ("{item}は[最悪|ひどい|期待外れ]です。", "とてもがっかりしました。", "対応が悪くて腹が立ちました。", "{item}を買って後悔しています。",
      "{item}はひどい、がっかりです。", "対応が最悪な店です。")),
    ("meeting appointment schedule", "about a meeting",
     ("Can we meet on {date} at {time}?", "The meeting with {name} is moved to {date}.", "Please book an appointment at {time}.",
      "{name} invites you to a meeting.", "Our weekly meeting is cancelled.", "When are you free to meet {name}?",
      "Is a meeting on {date} fine for {name}?", "Let us move the appointment to {time}."),
     ("{date}に打ち合わせをしましょう。", "会議は{time}に変更です。", "{name}との面談を予約してください。", "定例会議は中止です。",
      "打ち合わせを{date}に変更できますか。", "会議の予約は{time}でお願いします。")),
    ("travel trip flight", "about travel",
     ("I need a flight to {city}.", "Book a hotel in {city} for {name}.", "The train to {city} leaves at {time}.",
      "My trip to {city} starts on {date}.", "Is there a bus from {city} to the airport?", "We fly to {city} in summer.",
      "Which train goes to the airport of {city}?", "I want a hotel for my trip on {date}."),
     ("{city}行きの飛行機を予約したいです。", "{city}のホテルを探しています。", "電車は{time}に出発します。", "{city}へ旅行に行きます。",
      "{city}へ行く飛行機とホテルが必要です。", "旅行の電車は{date}に出発です。")),
    ("job application career", "somebody applies for a job",
     ("I would like to apply for the job in {city}.", "Attached is my CV, {name}.", "Is the position still open?",
      "I have five years of experience as an engineer.", "{name} sent an application for the internship.",
      "When is the job interview?", "My CV for the open position is attached.", "I apply for the internship, {name}."),
     ("求人に応募したいです。", "履歴書を送ります。", "面接の日はいつですか。", "{city}での仕事に興味があります。",
      "仕事の面接と履歴書の件です。", "求人に応募した{name}です。")),
    ("food restaurant cooking", "about food",
     ("The soup in {city} was tasty.", "Can you recommend a restaurant in {city}?", "I cook rice with {name} tonight.",
      "A table for two at {time}, please.", "The pizza was cold.", "What is in the cake?",
      "Is there a restaurant with good soup in {city}?", "{name} cooks pizza at {time}."),
     ("{city}のレストランを教えてください。", "ラーメンがとても美味しかったです。", "{time}に二人で席を予約したいです。", "今夜は{name}と料理をします。",
      "美味しい料理のレストランはありますか。", "ラーメンの席を{time}に予約したいです。")),
    ("sport sports match", "about sport",
     ("The match in {city} ended two to one.", "{name} won the race.", "Our team plays football on {date}.",
      "Tennis training starts at {time}.", "{name} scored a goal.", "The player of {city} broke the record.",
      "The team of {city} won the football match.", "{name} plays tennis at {time}."),
     ("{city}での試合に勝ちました。", "{name}がゴールを決めました。", "サッカーの練習は{time}からです。", "選手が記録を更新しました。",
      "サッカーの試合は{time}からです。", "{name}選手が試合に勝ちました。")),
    ("health medical doctor", "about health",
     ("I have a headache and a fever.", "{name} needs an appointment with the doctor.", "The hospital in {city} is closed.",
      "Which medicine helps against a cold?", "My back hurts.", "The nurse gave {name} a pill.",
      "The doctor gave me medicine against the fever.", "{name} is in hospital and her head hurts."),
     ("熱があって頭が痛いです。", "病院に行きたいです。", "薬を飲みましたが治りません。", "{name}は医者に診てもらいました。",
      "医者に薬をもらいましたが熱があります。", "{name}は頭が痛くて病院に行きました。")),
    ("spam advertising junk", "unwanted advertising",
     ("Win {amount} now, click here!", "Congratulations, you won a free {item}!", "Cheap loans, only today!",
      "Make money from home with no work.", "Click this link to get your prize.", "Special offer: {item} for free!",
      "Click here, your free {item} is waiting!", "You won a prize of {amount}, congratulations!"),
     ("今すぐクリックして{amount}を当てよう!", "おめでとうございます、{item}が当選しました!", "無料で{item}をプレゼント!", "誰でも簡単に稼げます。",
      "クリックするだけで無料の{item}が当選!", "簡単に{amount}稼げます!")),
    ("contract legal law", "about contracts and law",
     ("Please sign the contract with {company}.", "Our lawyer {name} checks the agreement.", "The contract ends on {date}.",
      "{company} goes to court.", "We need a new clause in the agreement.", "The licence is not valid any more.",
      "The lawyer of {company} wants a new contract.", "Please check the clause and sign the agreement."),
     ("{company}との契約書に署名してください。", "弁護士の{name}が確認します。", "契約は{date}に終了します。", "裁判になりそうです。",
      "弁護士と契約書を確認してください。", "{company}との契約は終了します。")),
    ("outage technical incident", "a system does not work",
     ("The server in {city} is down.", "The website shows an error.", "The database has been offline since {time}.",
      "Users see error 500.", "The network is very slow.", "The backup failed.",
      "The website is offline and shows an error.", "Since {time} the network and the server are down."),
     ("サーバーが落ちています。", "サイトにエラーが表示されます。", "{time}からネットワークが遅いです。", "バックアップに失敗しました。",
      "サーバーのエラーでサイトが表示されません。", "{time}からサーバーもネットワークも落ちています。")),
    ("school study education", "about learning",
     ("The exam is on {date}.", "{name} teaches maths at school.", "I study history in {city}.", "My homework is due at {time}.",
      "The students read a book.", "Which course should I take?", "The teacher gave us homework for the exam.",
      "{name} studies maths in {city}."),
     ("試験は{date}です。", "{name}先生は数学を教えています。", "宿題がまだ終わりません。", "{city}の大学で勉強しています。",
      "先生が数学の宿題を出しました。", "大学の試験の勉強をしています。")),
)  # fmt: skip

# synonyms of a verb | the same in Japanese
VERBS = (
    ("create make add", "を作成して を作って を追加して"), ("delete remove erase", "を削除して を消して を消去して"),
    ("show list display", "を表示して を見せて を一覧にして"), ("send forward", "を送って を送信して を転送して"),
    ("update change edit", "を更新して を変更して を編集して"), ("find search look_up", "を検索して を探して を調べて"),
    ("approve confirm accept", "を承認して を確認して を受け付けて"), ("book reserve", "を予約して を押さえて を取って"),
    ("print", "を印刷して をプリントして"), ("count", "を数えて の数を教えて"), ("archive store save", "を保存して をアーカイブして を保管して"),
    ("open start", "を開いて を開始して"), ("close stop end", "を閉じて を終了して を止めて"), ("translate", "を翻訳して を訳して"),
    ("download export", "をダウンロードして を書き出して"), ("pay settle", "を支払って を精算して"),
)  # fmt: skip
OBJECTS = (
    "invoice 請求書", "meeting 会議", "reminder リマインダー", "report 報告書", "contact 連絡先", "ticket チケット", "task タスク",
    "file ファイル", "note メモ", "room 部屋", "flight フライト", "hotel ホテル", "user ユーザー", "project プロジェクト",
    "contract 契約書", "payment 支払い", "order 注文", "product 商品", "photo 写真", "message メッセージ", "calendar カレンダー",
    "budget 予算", "offer 見積書", "parcel 荷物", "car 車", "backup バックアップ", "server サーバー", "newsletter ニュースレター",
    "survey アンケート", "course 講座", "menu メニュー", "playlist プレイリスト", "recipe レシピ", "alarm アラーム", "timer タイマー",
    "document 書類", "folder フォルダー", "receipt 領収書", "table テーブル", "license ライセンス",
)  # fmt: skip
# kind of value | parameter names | English phrases | Japanese phrases
ARGUMENTS = (
    ("name", "name person customer user owner recipient", "for {}|of {}|with {}|: {}", "{}さんの|{}の|{}さん宛てで、"),
    ("date", "date day on when", "on {}|dated {}|for the {}", "{}の|日付は{}で、|{}付けで"),
    ("amount", "amount sum price total", "over {}|of {}|amount {}|about {}", "{}の|金額は{}で、"),
    ("id", "id number reference code key", "with id {}|number {}|{}|with the reference {}", "番号{}の|IDが{}の|{}の"),
    ("city", "city place location town", "in {}|for {}|near {}", "{}の|{}での|場所は{}で、"),
    ("email", "email address to mail", "to {}|for {}|(mail {})", "{}宛てに|メール{}の"),
    ("item", "title subject topic text label", "called '{}'|about {}|titled {}|named {}", "「{}」の|「{}」という"),
    ("time", "time at start hour", "at {}|starting at {}|from {}", "{}の|{}からの"),
    ("count", "count quantity limit days", "{} times|limit {}|for {} days", "{}件の|{}回分の"),
)  # fmt: skip
# Tools that people ask for without naming verb and object: names | description | kinds | requests.
NATURAL = (
    ("get_weather weather_now forecast", "Weather of a city.", "city",
     ("What is the weather in {}?", "Will it rain in {}?", "How warm is it in {}?", "Do I need an umbrella in {}?"),
     ("{}の天気は?", "{}は雨が降りますか。", "{}の気温を教えてください。", "{}では傘が必要ですか。")),
    ("convert_currency exchange money_converter", "Convert a sum of money to another currency.", "amount",
     ("How much is {} in yen?", "Convert {} please.", "What is {} in another currency?", "Exchange {} for me."),
     ("{}は何ドルですか。", "{}を両替するといくら?", "{}をユーロに換算して。", "{}を別の通貨にして。")),
    ("set_alarm wake_me alarm_clock", "Set an alarm.", "time",
     ("Wake me up at {}.", "I must get up at {}.", "Ring the bell at {}.", "Do not let me sleep past {}."),
     ("{}に起こして。", "{}に起きたいです。", "{}にベルを鳴らして。", "{}より長く寝かせないで。")),
    ("track_parcel parcel_status where_is_parcel", "Where a parcel is, by tracking number.", "id",
     ("Where is parcel {}?", "When does {} arrive?", "Has package {} left?", "Tell me where my package {} is."),
     ("荷物{}はどこですか。", "{}はいつ届きますか。", "荷物{}は発送されましたか。", "{}の荷物は今どこ?")),
    ("play_music music_player start_song", "Play a song or an album.", "item",
     ("Play '{}'.", "I want to hear '{}'.", "Put on '{}'.", "Let me hear the song '{}'."),
     ("「{}」を流して。", "「{}」が聞きたい。", "曲「{}」を再生して。", "「{}」という曲を聞かせて。")),
    ("call_phone dial phone_call", "Call a phone number.", "phone",
     ("Call {}.", "Dial {} for me.", "Ring {} please.", "Give {} a call."),
     ("{}に電話して。", "{}にかけて。", "{}へ電話をかけてください。", "{}に電話をつないで。")),
    ("get_directions route navigate", "The way to a place.", "city",
     ("How do I get to {}?", "Show me the way to {}.", "Navigate to {}.", "Which road leads to {}?"),
     ("{}への行き方は?", "{}まで案内して。", "{}までの道を教えて。", "{}に行く道はどれですか。")),
    ("company_info lookup_company company_profile", "Facts about a company.", "company",
     ("Who runs {}?", "Tell me about {}.", "What does {} sell?", "Give me facts about the company {}."),
     ("{}について教えて。", "{}は何の会社ですか。", "{}の社長は誰?", "{}という会社の情報が欲しい。")),
    ("check_stock stock_level inventory", "How many of a product are in stock.", "item",
     ("Is the {} in stock?", "How many {} do we have?", "Are there any {} left?", "What is our stock of the {}?"),
     ("{}の在庫はありますか。", "{}はいくつ残っていますか。", "{}はまだありますか。", "{}の在庫数は?")),
)  # fmt: skip
NO_TOOL = {"en": "None of the tools fits this request.", "ja": "この依頼に合うツールはありません。"}


def _text_of(
    rng: random.Random, language: str, split: Split, count: int
) -> tuple[list[tuple[Any, str]], str]:
    chosen = rng.sample(CONCEPTS, count)
    facts, lines = [], []
    for concept in chosen:
        sentences = concept[3] if language == "en" else concept[4]
        sentence = sentences[-1] if split == "heldout" else rng.choice(sentences[:-1])
        if split == "train" and rng.random() < 0.55:
            sentence = _framed(rng, language, concept)
        value = values.value(rng, concept[2], language, split)
        facts.append((concept, value))
        lines.append(sentence.format(value))
    lines += rng.sample(FILLER[language], rng.choice((0, 1, 1, 2)))
    rng.shuffle(lines)
    return facts, rng.choice(("\n", "\n", " " if language == "en" else "")).join(lines)


def _framed(rng: random.Random, language: str, concept: tuple[Any, ...]) -> str:
    """A made-up sentence that names the concept by one of its nouns."""
    noun = (
        rng.choice(concept[0].split()).replace("_", " ")
        if language == "en"
        else pick(rng, JAPANESE_NOUNS[concept[0].split()[0]])
    )
    return fill(rng, rng.choice(FRAMES[language]), {"n": noun, "x": "{}"})


def extract(rng: random.Random, split: Split) -> Example:
    """Pull named fields out of a text: as JSON, by schema, or as the arguments of a tool."""
    language = rng.choice(("en", "en", "ja"))
    facts, text = _text_of(rng, language, split, rng.randint(2, 7))
    wanted: dict[str, tuple[str, str, str | None]] = {}
    for concept, value in rng.sample(facts, rng.randint(1, min(5, len(facts)))):
        wanted[rng.choice(concept[0].split())] = (concept[1], concept[2], value)
    if rng.random() < 0.4:
        absent = rng.choice([c for c in CONCEPTS if all(c is not f[0] for f in facts)])
        key = rng.choice(absent[0].split())
        if key not in wanted:
            wanted[key] = (absent[1], absent[2], None)
    keys = list(wanted)
    rng.shuffle(keys)
    answer = {key: wanted[key][2] for key in keys}
    style = rng.random()
    if style < 0.2:
        return _extract_by_tool(
            rng, language, text, wanted, {k: v for k, v in answer.items() if v is not None}
        )
    joint = rng.choice(("\n- ", "\n", ", "))
    fields = joint.join(key if rng.random() < 0.2 else f"{key} ({wanted[key][0]})" for key in keys)
    intro = rng.choice(("Extract these fields as JSON", "Read the text and return JSON with", "Fill in the form",
                        "Find the following in the message", "Return a JSON object with these keys"))  # fmt: skip
    intro += (
        ":"
        + ("" if joint == ", " else joint.rstrip("- "))
        + " " * (joint == ", ")
        + fields.lstrip()
    )
    if style < 0.35:
        schema = {"type": "object", "required": keys, "properties": {
            key: {"description": wanted[key][0], "anyOf": [{"type": "string"}, {"type": "null"}]} for key in keys}}  # fmt: skip
        intro = rng.choice(("Answer with JSON of this schema: ", "Format your final answer according to the following "
                            "OpenAPI schema: ")) + rng.choice((dumps, _indented))(schema)  # fmt: skip
    intro += rng.choice(
        ("", "", "\nUse null for what is missing.", "\nMissing values are null.", " Copy exactly.")
    )
    return Example("extract", language, _wrap(rng, intro, text, compact(answer)))


def _indented(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)


def _extract_by_tool(
    rng: random.Random,
    language: str,
    text: str,
    wanted: dict[str, tuple[str, str, str | None]],
    answer: dict[str, Any],
) -> Example:
    properties = {k: {"type": "string", "description": wanted[k][0]} for k in wanted}
    name = rng.choice("save_form record submit Contact Form Extraction store_fields Result".split())
    schema = {"type": "object", "properties": properties, "required": list(answer)}
    tool = function_tool(
        name, rng.choice(("Save the fields of a message.", "The result.", "")), schema
    )
    intro = rng.choice(
        ("Save the fields of this message.", f"Call {name} with the fields.", "Extract the data.")
    )
    messages = _wrap(rng, intro, text, "")[:-1]
    ordered = {k: answer[k] for k in wanted if k in answer}
    return Example("extract", language, [*messages, call(name, ordered)], [tool])


def _wrap(rng: random.Random, intro: str, text: str, answer: str) -> list[Message]:
    shape = rng.random()
    if shape < 0.3:
        messages = varied_crew(rng, f"{intro}\n\n{rng.choice(('Text', 'Message', 'Mail', 'Input'))}:\n{text}",
                               rng.choice(("The answer.", "Exactly what was asked.", "Only the result.")))  # fmt: skip
    elif shape < 0.65:
        messages = graph_messages(intro, text)
    else:
        user = rng.choice(
            (f"{intro}\n\n{text}", f"{text}\n\n{intro}", f'{intro}\n"""\n{text}\n"""')
        )
        messages = [{"role": "user", "content": user}]
    return [*messages, {"role": "assistant", "content": answer}]


def _filled(rng: random.Random, language: str, split: Split, template: str) -> str:
    slots = ("name", "item", "city", "company", "date", "time", "amount")
    text = pick(rng, template)
    for slot in slots:
        if "{" + slot + "}" in text:
            text = text.replace("{" + slot + "}", values.value(rng, slot, language, split))
    return text


def classify(rng: random.Random, split: Split) -> Example:
    """Choose one of the labels that the prompt lists."""
    language = rng.choice(("en", "en", "ja"))
    chosen = rng.sample(TOPICS, rng.randint(2, 6))
    truth = rng.choice(chosen)
    sentences = truth[2] if language == "en" else truth[3]
    pool = sentences[-2:] if split == "heldout" else sentences[:-2]
    text = _filled(rng, language, split, " ".join(rng.sample(pool, rng.choice((1, 1, 2)))))
    codes = rng.random() < 0.15
    labels = [values.identifier(rng)[:4] if codes else rng.choice(t[0].split()) for t in chosen]
    if len(set(labels)) < len(labels):
        labels = [t[0].split()[0] for t in chosen]
    joint = rng.choice((", ", "\n", "\n- ", " | "))
    explained = codes or rng.random() < 0.4
    listed = joint.join(
        f"{label}: {t[1]}" if explained else label for label, t in zip(labels, chosen, strict=True)
    )
    answer = labels[chosen.index(truth)]
    intro = rng.choice(
        (
            "Classify the text. Labels: ",
            "Choose one label: ",
            "Which of these fits? ",
            "Pick the topic. ",
        )
    )
    intro += listed
    if rng.random() < 0.5:
        key = rng.choice(("label", "topic", "class", "category"))
        intro += rng.choice((f'\nAnswer as JSON: {{"{key}": ...}}', f"\nJSON with the key {key}."))
        answer = compact({key: answer})
    else:
        intro += rng.choice(
            ("\nAnswer with the label only.", "\nOnly the label.", "\nReply with one label.")
        )
    return Example("classify", language, _wrap(rng, intro, text, answer))


def _heldout_pair(verb: int, thing: int) -> bool:
    """One verb-object pair in nine never becomes a training tool."""
    return (verb * 7 + thing) % 9 == 0


class _Made:
    """A composed tool with a request that asks for it."""

    def __init__(
        self, rng: random.Random, language: str, split: Split, pair: tuple[int, int]
    ) -> None:
        verb, thing = VERBS[pair[0]], OBJECTS[pair[1]].split()
        self.pair = pair
        verbs = verb[0].split()
        style = rng.choice(("{v}_{o}", "{v}_{o}", "{o}_{v}", "{v}{O}"))
        self.name = style.format(v=rng.choice(verbs), o=thing[0], O=thing[0].capitalize())
        kinds = rng.sample(ARGUMENTS, rng.choice((0, 1, 1, 2, 2, 3)))
        names = [rng.choice(kind[1].split()) for kind in kinds]
        if len(set(names)) < len(names):
            names = [kind[1].split()[0] for kind in kinds]
        self.arguments: dict[str, Any] = {}
        properties: dict[str, dict[str, Any]] = {}
        phrases = []
        for kind, name in zip(kinds, names, strict=True):
            value: Any = values.value(rng, kind[0], language, split)
            phrases.append(
                rng.choice((kind[2] if language == "en" else kind[3]).split("|")).format(value)
            )
            self.arguments[name] = int(value) if kind[0] == "count" else value
            properties[name] = {"type": "integer" if kind[0] == "count" else "string"}
            if rng.random() < 0.3:
                properties[name]["description"] = f"{kind[0]} of the {thing[0]}"
        article = rng.choice(("a", "the", "this"))
        said = rng.choice(verbs).replace("_", " ")
        if language == "en":
            self.request = (
                f"{rng.choice(('Please ', '', '', 'Can you ', 'I want to '))}{said} {article} {thing[0]} "
                + " ".join(phrases)
            )
            self.request = (
                self.request.strip().capitalize()
                if not phrases
                else self.request[0].upper() + self.request[1:]
            )
        else:
            self.request = (
                "".join(phrases)
                + thing[1]
                + rng.choice(verb[1].split())
                + rng.choice(("ください。", "ほしいです。", "。", "もらえますか。"))
            )
        self.request = self.request.strip()
        text = rng.choice(("{V} a {o}.", "{V} the {o}.", "Use this to {v} a {o}.", "{V}s {o}s."))
        described = rng.choice(verbs).replace("_", " ")
        self.tool = function_tool(
            self.name,
            text.format(V=described.capitalize(), v=described, o=thing[0]),
            parameters(rng, properties),
        )


def _natural(
    rng: random.Random, language: str, split: Split, index: int
) -> tuple[Tool, str, dict[str, Any]]:
    names, text, kind, english, japanese = NATURAL[index]
    requests = english if language == "en" else japanese
    request = requests[-1] if split == "heldout" else rng.choice(requests[:-1])
    value = values.value(rng, kind, language, split)
    argument = rng.choice(
        next((a[1] for a in ARGUMENTS if a[0] == kind), f"{kind} query q").split()
    )
    tool = function_tool(
        rng.choice(names.split()), text, parameters(rng, {argument: {"type": "string"}})
    )
    return tool, request.format(value), {argument: value}


def _pairs(rng: random.Random, split: Split, count: int) -> list[tuple[int, int]]:
    """Distinct pairs, often sharing the verb or the object with the first one."""

    def draw() -> tuple[int, int]:
        return rng.randrange(len(VERBS)), rng.randrange(len(OBJECTS))

    first = draw()
    while _heldout_pair(*first) != (split == "heldout"):
        first = draw()
    pairs = [first]
    while len(pairs) < count:
        pair = draw()
        near = rng.random()
        if near < 0.3:
            pair = (first[0], pair[1])
        elif near < 0.6:
            pair = (pair[0], first[1])
        if pair not in pairs and (split == "heldout" or not _heldout_pair(*pair)):
            pairs.append(pair)
    return pairs


def choose_tool(rng: random.Random, split: Split) -> Example:
    """Pick the right tool among one to six and copy its arguments, or say that none fits."""
    language = rng.choice(("en", "en", "ja"))
    made = [_Made(rng, language, split, pair) for pair in _pairs(rng, split, rng.randint(2, 6))]
    request, right, arguments = made[0].request, made[0].tool, made[0].arguments
    tools = [m.tool for m in made]
    if rng.random() < 0.35:
        right, request, arguments = _natural(rng, language, split, rng.randrange(len(NATURAL)))
        tools[0] = right
    fits = rng.random() > 0.2
    if not fits:
        tools = tools[1:]
    rng.shuffle(tools)
    if len({tool["function"]["name"] for tool in tools}) < len(tools):
        tools = [right] if fits else tools[:1]
    intro = rng.choice(
        (
            "You are a helpful assistant.",
            "Use the tools.",
            "You run the office.",
            "Call the right tool.",
            "",
        )
    )
    refusal = NO_TOOL[language]
    if rng.random() < 0.4:
        refusal = rng.choice(
            (
                "none",
                "NO_TOOL",
                "I cannot do that.",
                "null",
                '{"tool":null}',
                "できません。",
                values.word(rng),
            )
        )
        intro += rng.choice(
            (
                f" If no tool fits, answer: {refusal}",
                f" Answer {refusal} if there is no tool for it.",
            )
        )
    intro = intro.strip()
    if intro and rng.random() < 0.35:
        messages = varied_crew(
            rng,
            f"{intro}\n{request}",
            rng.choice(("The result.", "What the tool returns.")),
            tools=True,
        )
    else:
        messages = (
            graph_messages(intro, request) if intro else [{"role": "user", "content": request}]
        )
    if not fits:
        return Example(
            "no tool fits", language, [*messages, {"role": "assistant", "content": refusal}], tools
        )
    return Example(
        "choose tool", language, [*messages, call(right["function"]["name"], arguments)], tools
    )


def use_result(rng: random.Random, split: Split) -> Example:
    """Answer from a tool's result: some of its fields as JSON, or one value in a sentence."""
    language = rng.choice(("en", "en", "ja"))
    made = _Made(rng, language, split, _pairs(rng, split, 1)[0])
    keys = rng.sample(
        [c[0].split()[0] for c in CONCEPTS] + "status state rating version owner".split(),
        rng.randint(2, 7),
    )
    kinds = {c[0].split()[0]: c[2] for c in CONCEPTS}
    record: dict[str, Any] = {}
    for key in keys:
        record[key] = values.value(rng, kinds.get(key, "word"), language, split)
        if key == "quantity":
            record[key] = int(record[key])
        if rng.random() < 0.08:
            record[key] = None
    wanted = rng.sample(keys, rng.randint(1, min(4, len(keys))))
    answer = compact({key: record[key] for key in wanted})
    intro = rng.choice(("Use the tool, then answer with JSON: {}", "Answer with the keys {} from the tool's result.",
                        "Return JSON with {} copied from the result."))  # fmt: skip
    if len(wanted) == 1 and record[wanted[0]] is not None and rng.random() < 0.6:
        intro = "Use the tool and answer with the {} only."
        answer = str(record[wanted[0]])
    intro = intro.format(", ".join(wanted))
    tools = [made.tool]
    if rng.random() < 0.3:
        messages = varied_crew(rng, made.request, intro, tools=True)
    else:
        messages = graph_messages(intro, made.request)
    messages += [
        call(made.name, made.arguments),
        {
            "role": "tool",
            "tool_call_id": "call_1",
            "name": made.name,
            "content": tool_result(rng, record),
        },
        {"role": "assistant", "content": answer},
    ]
    return Example("use result", language, messages, tools)


def copy(rng: random.Random, split: Split) -> Example:
    """Find one line by its key and copy it."""
    language = rng.choice(("en", "en", "ja"))
    kinds = (
        "name",
        "item",
        "id",
        "id",
        "email",
        "phone",
        "amount",
        "date",
        "city",
        "company",
        "word",
    )
    rows: dict[str, str] = {}
    count = rng.randint(2, 9) if rng.random() < 0.93 else rng.randint(10, 60)
    while len(rows) < count:
        key = rng.choice(
            (values.word(rng), values.identifier(rng, split), values.item(rng, language, split))
        )
        rows[key] = values.value(rng, rng.choice(kinds), language, split)
    form = rng.choice(("{}: {}", "{} = {}", "{} -> {}", "- {}: {}", "| {} | {} |"))
    text = "\n".join(form.format(k, v) for k, v in rows.items())
    key = rng.choice(list(rows))
    if rng.random() < 0.5:
        intro, answer = f"What is the value of {key}? Answer with the value only.", rows[key]
    else:
        chosen = rng.sample(list(rows), min(len(rows), rng.randint(1, 3)))
        intro = f"Return JSON with the values of {', '.join(chosen)}."
        answer = compact({k: rows[k] for k in chosen})
    return Example("copy", language, _wrap(rng, intro, text, answer))


def general_example(rng: random.Random, split: Split) -> Example:
    """One example of general work."""
    makers = (
        extract,
        extract,
        extract,
        classify,
        classify,
        choose_tool,
        choose_tool,
        choose_tool,
        use_result,
        copy,
    )
    return rng.choice(makers)(rng, split)
