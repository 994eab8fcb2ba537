"""The phrases that demo tickets are built from, as one data table.

``[a|b]`` picks one alternative, ``{name}`` is filled with a value. Everything is listed twice, once
for training and once held out, and the two sides share no template, name, product or id shape: a
score on held-out tickets then says that a model reads, not that it remembers.
"""

from __future__ import annotations

from typing import Final

Table = dict[str, tuple[str, ...]]

# A is a capital letter, 9 a digit. The shapes of numbers that are not order ids are deliberately
# alike: only the words around a number tell what it is.
SHAPES: Final[dict[str, Table]] = {
    "train": {
        "order": (
            "AA-99999",
            "AAA-9999",
            "A9999999",
            "9999-9999",
            "999999",
            "AA99-9999",
            "ORD-999999",
            "A-99999",
            "99-99999-AA",
            "AAAA99",
            "AAA-99-999",
            "9999999999",
        ),
        "other": (
            "AA-99999",
            "INV-99999",
            "99999999",
            "AAA-9999",
            "9999-999",
            "A999999",
            "99A9999",
        ),
        "phone": ("999-999-9999", "099-9999-9999", "+99 99 9999 9999", "(999) 999-9999"),
    },
    "heldout": {
        "order": ("AAA-999-9", "9A-9999", "AA9-99-99A", "99999-A", "AA/9999/99", "WEB999999A"),
        "other": ("9AA-99999", "RE-9999-99", "9999A9", "AA.99999"),
        "phone": ("999 999 9999", "0999-99-9999", "+999 999 9999"),
    },
}

NAMES: Final[dict[str, dict[str, Table]]] = {
    "en": {
        "train": {
            "first": tuple(
                "Emma Liam Olivia Noah Ava Ethan Mia Lucas Chloe Jack Grace Henry Zoe Oscar Ella Leo "
                "Ruby Adam Nora Max Alice Ben Clara Daniel Eva Frank Hannah Ian Julia Kevin Laura "
                "Martin Nina Paul Rachel Simon Tina Victor Wendy Priya Omar Mei Carlos Fatima".split()
            ),
            "last": tuple(
                "Smith Johnson Brown Taylor Wilson Clark Lewis Walker Hall Young King Wright Green "
                "Baker Adams Nelson Carter Mitchell Turner Parker Evans Collins Stewart Morris Cook "
                "Rogers Reed Bailey Bell Cooper Ward Cox Richardson Wood Gray Hughes Price Singh "
                "Garcia Novak".split()
            ),
        },
        "heldout": {
            "first": tuple(
                "Theodora Casper Imogen Rufus Beatrix Dmitri Saoirse Kwame Linnea Bartholomew Yusra "
                "Florian".split()
            ),
            "last": tuple(
                "Ashgrove Pemberton Okonkwo Lindqvist Thackeray Vandermeer Castellano Whitlock "
                "Quigley Haverford Brzezinski Moncrieff".split()
            ),
        },
    },
    "ja": {
        "train": {
            "first": tuple(
                "翔太 美咲 健一 由美 大輔 さくら 拓也 恵子 直樹 陽子 翼 真理 和也 愛 達也 葵 誠 智子 亮 "
                "奈々 浩二 彩 隆 久美子 悠斗 結衣 剛 千尋 学 麻衣".split()
            ),
            "last": tuple(
                "佐藤 鈴木 高橋 田中 伊藤 渡辺 山本 中村 小林 加藤 吉田 山田 佐々木 山口 松本 井上 木村 林 "
                "斎藤 清水 山崎 森 池田 橋本 阿部 石川 山下 中島 石井 小川 前田 岡田 長谷川 藤田".split()
            ),
        },
        "heldout": {
            "first": tuple("雅彦 琴音 蒼真 志織 源太 千鶴 颯 文乃 周平 梢".split()),
            "last": tuple("榊原 鷲尾 城ヶ崎 二階堂 桐生 久我 早乙女 諏訪 五十嵐 黛".split()),
        },
    },
}

ITEMS: Final[dict[str, Table]] = {
    "en": {
        "train": tuple(
            "desk lamp|coffee grinder|rain jacket|office chair|water bottle|phone case|yoga mat|"
            "toaster|backpack|wireless mouse|electric kettle|wall clock|running shoes|blender|"
            "keyboard|headphones|sleeping bag|frying pan|bath towel set|bookshelf|garden hose|"
            "suitcase|air fryer|router|tablet stand|baby monitor|camping stove|hair dryer|monitor|"
            "winter gloves|picture frame|vacuum cleaner|smart watch|power bank|rice cooker|tea set|"
            "bike light|printer|speaker|knife set".split("|")
        ),
        "heldout": tuple(
            "soldering iron|hammock|espresso machine|ukulele|dehumidifier|telescope|bread maker|"
            "standing desk|sewing machine|trail camera|fountain pen|paddle board".split("|")
        ),
    },
    "ja": {
        "train": tuple(
            "デスクライト コーヒーミル レインコート オフィスチェア 水筒 スマホケース ヨガマット トースター "
            "リュック ワイヤレスマウス 電気ケトル 掛け時計 スニーカー ミキサー キーボード ヘッドホン 寝袋 "
            "フライパン バスタオル 本棚 スーツケース ルーター タブレットスタンド 掃除機 腕時計 炊飯器 "
            "ティーセット 自転車ライト プリンター スピーカー 包丁セット 加湿器 毛布 電子レンジ".split()
        ),
        "heldout": tuple(
            "はんだごて ハンモック エスプレッソマシン ウクレレ 除湿機 天体望遠鏡 ホームベーカリー ミシン "
            "万年筆 座椅子".split()
        ),
    },
}

# The problem itself. {thing} is "my desk lamp" or the like, {ref} "my order" with or without its id.
PROBLEMS: Final[dict[str, dict[str, dict[str, Table]]]] = {
    "en": {
        "delivery": {
            "train": {
                "subject": (
                    "[Where is|When will I get|Still waiting for] [my order|my package|{thing}][?|]",
                    "[Package|Parcel|Delivery|Shipment] [late|missing|lost|not arrived|delayed]",
                    "[Not delivered|Never arrived|Nothing has arrived yet|Tracking does not move]",
                ),
                "body": (
                    "{ref} [still has not arrived|has not shown up|never arrived|is late|has not come yet].",
                    "I am [still waiting|waiting since last week] for {thing} [to arrive|to be delivered].",
                    "The tracking [page|link|site] [has not changed|shows nothing|has been stuck] for "
                    "[three days|a week|days].",
                    "The courier [left the parcel at the wrong door|delivered my package to a neighbour|"
                    "could not find my address|marked it as delivered, but nothing is here].",
                    "Can you [tell me|find out] where [my parcel|my package|the shipment|{thing}] is?",
                    "[Could you|Please] [change|correct] the delivery address of {ref}?",
                    "It says delivered, but [I never received {thing}|there is no package|nobody got it].",
                    "When will {thing} [ship|be shipped|leave the warehouse|be sent out]?",
                    "The [delivery date|shipping date] of {ref} [keeps moving|was moved again|has passed].",
                    "The [driver|courier] [did not ring|never came|went away], and {thing} [went back to "
                    "the depot|was not delivered].",
                    "I moved house, [please send {thing} to my new address|can you ship it to another address].",
                    "My parcel seems to be [lost|stuck in customs|missing].",
                ),
            },
            "heldout": {
                "subject": ("No sign of the parcel", "Shipping of {thing}: where does it stand?"),
                "body": (
                    "Two weeks have gone by and {thing} has yet to reach [me|my house].",
                    "According to the courier the package was delivered, yet my door step is empty.",
                    "Has {ref} left your warehouse at all? The tracking number tells me nothing.",
                    "{ref} was supposed to arrive [last Friday|on Monday] and I have not received it.",
                    "Please ship {thing} to my office instead of my home address.",
                ),
            },
        },
        "return": {
            "train": {
                "subject": (
                    "[Return|Refund|Exchange|Sending back] [of {thing}|request|please|]",
                    "[I want to return|How do I return|Can I exchange|Returning] {thing}[?|]",
                    "[Money back|Wrong size|Changed my mind|Return label needed]",
                ),
                "body": (
                    "I [would like to|want to|need to] [return|send back|give back] {thing}.",
                    "{thing} [does not fit|is too small|is too big|is not what I expected|does not suit me], "
                    "[so I want my money back|please refund me|I would like a refund].",
                    "[Could you|Please] send me a return label for {thing}?",
                    "How do I [return|send back|exchange] {thing}?",
                    "Can I [exchange|swap] {thing} for [another colour|a larger one|a smaller size|another model]?",
                    "I changed my mind and [want to cancel|would like to return] {ref}.",
                    "I sent {thing} back [last week|ten days ago] and [have not got my refund|the refund has "
                    "not come].",
                    "[Please|Kindly] cancel {ref}[, I no longer need it| and refund me|, I bought it by mistake].",
                    "I do not like [the colour|the size|it] and [will send it back|want a refund].",
                    "What is your return [policy|address] for {thing}? [I want to send it back.|It is unused.]",
                    "[My wife|My friend|My son] already has one, so [we want to return {thing}|I would like to "
                    "give it back].",
                    "{ref} should be [cancelled|returned]; [please pay me back|please refund the full price].",
                ),
            },
            "heldout": {
                "subject": ("{thing} goes back to you", "Getting my money back"),
                "body": (
                    "{thing} is unused in its box and I want to hand it back for a refund.",
                    "Would you take {thing} back? It is a size too large for me.",
                    "Since I no longer need {thing}, tell me how to send it back.",
                    "Is it possible to exchange {thing}? The colour does not suit our room.",
                    "You got {thing} back from me a week ago; where is the refund?",
                ),
            },
        },
        "damaged": {
            "train": {
                "subject": (
                    "[Broken|Damaged|Defective|Cracked|Faulty] {thing}",
                    "{thing} [is broken|does not work|arrived damaged|stopped working]",
                    "[Item|Product] [damaged|broken|defective|faulty|with missing parts]",
                ),
                "body": (
                    "{thing} [arrived|came|was] [broken|damaged|cracked|scratched|in pieces].",
                    "{thing} [does not turn on|stopped working|is dead|does not work] [after one day|any more|"
                    "at all|since yesterday].",
                    "When I opened the box, {thing} [was cracked|had a big scratch|was broken|was leaking].",
                    "A part of {thing} [is missing|is bent|fell off|was not in the box|is broken].",
                    "You sent me the wrong [item|product|model]: [I ordered {thing}|this is not {thing}].",
                    "The [screen|handle|lid|button|cable|lock|zip] of {thing} [is broken|does not work|came "
                    "off|is cracked].",
                    "{thing} [makes a loud noise|leaks|overheats|smells burnt|keeps switching off].",
                    "I [received|got] a [faulty|defective|damaged] product: {thing}.",
                    "The box was [crushed|torn|wet] and {thing} inside [is damaged|is dented|is broken].",
                    "{ref} came [without the screws|without the charger|with a hole in it|with the wrong plug].",
                    "There is a [crack|dent|hole|defect] in {thing}[.|, can you replace it?]",
                    "Only half of {ref} was in the box, [some parts are missing|the rest is missing].",
                ),
            },
            "heldout": {
                "subject": ("{thing} out of the box with a defect", "Broken on arrival"),
                "body": (
                    "On the first use {thing} just fell apart and the handle cracked.",
                    "I unpacked {thing} and found a crack on one side and a dent on the other.",
                    "After one hour {thing} stopped and will not turn on any more.",
                    "What I got in the box is not {thing} but a wrong model.",
                    "Some screws of {thing} are missing, and the cable is torn.",
                ),
            },
        },
        "billing": {
            "train": {
                "subject": (
                    "[Charged twice|Wrong amount|Double charge|Payment problem|Card declined]",
                    "[Invoice|Receipt|Bill|Payment] [needed|missing|wrong|for {thing}|question]",
                    "[Discount|Coupon|Gift card|Promo code] [not applied|does not work]",
                ),
                "body": (
                    "[I was|My card was|We were] [charged|billed] [twice|two times|double|too much] for {thing}.",
                    "[Please|Could you] send me [the invoice|a receipt|the bill|a tax invoice] for {ref}.",
                    "The [discount|coupon|promo code|gift card] was not [applied|used|taken off] when I paid.",
                    "My [credit card|card|payment] was [declined|rejected|refused], but the money is gone.",
                    "The [amount|price|total] on [the invoice|my statement|the bill] [is wrong|does not match|is "
                    "higher than in the shop].",
                    "There is a [charge|payment] of {amount} on my [card|statement|account] [that I do not know|"
                    "I did not make].",
                    "Can I [pay|still pay] for {ref} [by bank transfer|in two instalments|with another card]?",
                    "The invoice [shows the wrong company name|has no tax number|is missing the VAT|has the "
                    "wrong total].",
                    "Why did I [pay|get billed] {amount} [instead of the price in the shop|for shipping]?",
                    "I paid for {ref} by [card|bank transfer], [but it still says unpaid|but got no receipt].",
                    "[You took|Your shop took] {amount} [from my card twice|too much from my account].",
                    "My accountant needs [an invoice|a receipt] [with our company name|with the VAT on it].",
                ),
            },
            "heldout": {
                "subject": ("My card statement", "The sum on the invoice"),
                "body": (
                    "Looking at my statement I see two payments of {amount} for {thing}.",
                    "I need an invoice with the VAT number of our company for {ref}.",
                    "The total I paid does not match the price of {thing}; I was billed {amount}.",
                    "My promo code gave me no discount, and the full amount was charged to my card.",
                    "The bank transfer for {ref} was made, but your shop says the payment is missing.",
                ),
            },
        },
        "account": {
            "train": {
                "subject": (
                    "[Cannot log in|Login problem|Locked out|Password reset|Account locked]",
                    "[Change|Update] [my email address|my account|my profile|my phone number]",
                    "[Delete|Close] my account",
                ),
                "body": (
                    "I [cannot|can not|am unable to] [log in|sign in|get in] to my account.",
                    "I forgot my password and the reset [mail|email|link] [never comes|does not work|has expired].",
                    "Please [change|update] the [email address|e-mail|phone number|name] [in|of] my [account|profile].",
                    "My account [is locked|was blocked|has been suspended|is disabled].",
                    "Please [delete|close|remove] my [account|profile|user account] [and my data|].",
                    "The [login|sign in] page says [my password is wrong|the user does not exist|access denied].",
                    "I no longer have [the phone|the email address] for the [login code|verification code].",
                    "How can I [turn on two-factor login|change my user name|reset my password]?",
                    "[Someone|Somebody] [logged in to|changed the password of|is using] my account.",
                    "I have two accounts, [please merge them|can you join them|which one should I use to log in]?",
                    "The [app|site] [logs me out|asks for my password] [every time|again and again].",
                    "I want to stop the newsletter [in|from] my [account|profile] settings, but [cannot save|it does "
                    "not save].",
                ),
            },
            "heldout": {
                "subject": ("Trouble with my login", "My profile data"),
                "body": (
                    "Whatever password I type, the login page denies me access.",
                    "I got a new email address; please put it in my profile.",
                    "Your site says my user account is blocked and I can't sign in.",
                    "No verification code reaches my phone, so I am locked out of my account.",
                    "I want my account and all the data in it removed.",
                ),
            },
        },
        "question": {
            "train": {
                "subject": (
                    "[Question|A question|Quick question] [about {thing}|before I buy|about a product]",
                    "[Is {thing} in stock|Size of {thing}|Do you sell {thing}][?|]",
                    "[Warranty|Stock|Colours|Dimensions] [of {thing}|?|question]",
                ),
                "body": (
                    "[Is|Will] {thing} [be in stock|available in blue|available again|sold in black] [soon|this year|"
                    "in your shop]?",
                    "Does {thing} [work with|fit|come with] [a 220 volt plug|batteries|a warranty|an adapter]?",
                    "[What are|Could you tell me] the [size|weight|dimensions|measurements] of {thing}?",
                    "How long is the [warranty|guarantee] of {thing}?",
                    "Do you [sell|have|offer] {thing} in [other colours|a larger size|red|green]?",
                    "Before I buy {thing}: [is it washable|is it waterproof|how loud is it|what is it made of]?",
                    "I am [thinking of buying|interested in|looking at] {thing}. [Which model do you recommend?|"
                    "Is it good for children?|Can it be used outside?]",
                    "Which [batteries|spare parts|filters] [fit|go with|do I need for] {thing}?",
                    "Is there a [manual|user guide] for {thing} [in English|online|as a PDF]?",
                    "What is the difference between {thing} and [the newer model|the cheaper one]?",
                    "Do you ship {thing} to [Canada|Norway|islands] and [do you gift wrap|do you have a shop there]?",
                    "[I like {thing}.|I saw {thing} in your shop.] [Is it easy to clean?|How many watts does it use?]",
                ),
            },
            "heldout": {
                "subject": ("Thinking about buying {thing}", "How big is {thing}?"),
                "body": (
                    "Could {thing} be used with batteries, and how much does it weigh?",
                    "I have not bought {thing} yet: which colours do you sell?",
                    "Are spare parts for {thing} available, and is there an online manual?",
                    "Would {thing} be good for a small room? I am interested in the size.",
                    "How many years of warranty does {thing} come with?",
                ),
            },
        },
    },
    "ja": {
        "delivery": {
            "train": {
                "subject": (
                    "[荷物|商品|{thing}]が[届きません|届かない|まだ来ない]",
                    "[配送|配達|発送]について",
                    "お届け先[の変更|を変更したい]",
                ),
                "body": (
                    "{ref}[がまだ届きません|がいまだに届いていません|が届かないのですが|、まだ来てないです]。",
                    "{thing}は[いつ届きますか|いつ発送されますか|いつ頃の到着でしょうか]。",
                    "追跡[番号で見ても|ページを見ても|サイトでは][三日前から動いていません|何も表示されません|変化がありません]。",
                    "[配達済み|配達完了]になっていますが、[受け取っていません|荷物が見当たりません|玄関に何もありません]。",
                    "お届け先の住所を[変更したい|変えたい|直したい]のですが、[可能ですか|できますか]。",
                    "[配達員の方|ドライバーさん]が[来ませんでした|不在票も入れずに帰ってしまいました|隣の家に置いていきました]。",
                    "到着予定日を[過ぎても|三日過ぎても]{thing}が[届きません|来ません]。",
                    "荷物が[紛失したのではないでしょうか|行方不明のようです|営業所で止まっています]。",
                    "引っ越したので、{thing}を[新しい住所に送って|新居に届けて][ください|もらえますか]。",
                ),
            },
            "heldout": {
                "subject": ("荷物の到着が遅れている件", "{thing}の配送状況"),
                "body": (
                    "二週間待っていますが、{thing}が手元に届いておりません。",
                    "発送の連絡はあったのに、荷物がどこにあるのか分かりません。",
                    "{ref}、配達完了と出ていますがポストにも玄関にも荷物がないです。",
                    "届け先を自宅から会社の住所に変更してもらえますか。",
                ),
            },
        },
        "return": {
            "train": {
                "subject": (
                    "[返品|返金|交換|キャンセル][について|希望|をお願いします|したい]",
                    "{thing}の[返品|交換|返金]",
                    "[サイズ違い|返品方法]の件",
                ),
                "body": (
                    "{thing}を[返品したい|返したい|返品させていただきたい]のですが[、手続きを教えてください|]。",
                    "{thing}の[サイズが合わない|色が合わない|イメージが違う]ので、[返品|返金|交換]を[お願いします|希望します]。",
                    "{ref}を[キャンセル|取り消し]したいです。",
                    "[返品|交換]の[送り先|方法|送料]を教えて[ください|いただけますか]。",
                    "先週{thing}を[返送|送り返]しましたが、[返金がまだです|まだ返金されていません]。",
                    "{thing}を[別の色|大きいサイズ|小さいサイズ]に[交換|取り替え]できますか。",
                    "[間違えて買った|不要になった|家族も買っていた]ので、{thing}を[返品できますか|返してお金を戻してほしいです]。",
                    "未使用の{thing}ですが、[返品|返金]は[可能でしょうか|できますか]。",
                ),
            },
            "heldout": {
                "subject": ("{thing}を返したいです", "返金の時期"),
                "body": (
                    "開封していない{thing}をお返しして、代金を返金いただきたく存じます。",
                    "思っていたより大きかったので、{thing}は返品でお願いできますか。",
                    "返品した{thing}の返金がまだ確認できておりません。",
                    "{thing}、小さかったので別のサイズと交換したいです。",
                ),
            },
        },
        "damaged": {
            "train": {
                "subject": (
                    "{thing}が[壊れていた|破損していた|動かない|故障]",
                    "[不良品|破損|故障][の件|です|について]",
                    "[部品が足りない|違う商品が届いた]",
                ),
                "body": (
                    "{thing}が[壊れて|割れて|破損して|へこんで]いました。",
                    "{thing}の電源が[入りません|すぐ切れます|つかないです]。",
                    "箱を開けたら、{thing}に[ひびが入って|大きな傷があって|穴が開いて][いました|、がっかりしました]。",
                    "{thing}の[部品|ネジ|付属品|充電器]が[足りません|入っていませんでした|欠けています]。",
                    "注文したものと[違う商品|別の商品|色違いの商品]が[届きました|入っていました]。",
                    "{thing}が[一日で|使い始めてすぐに|昨日から][動かなくなりました|故障しました|使えなくなりました]。",
                    "{thing}から[変な音|異音|水漏れ|焦げた臭い]が[します|しています]。",
                    "外箱が[つぶれて|濡れて]いて、中の{thing}も[壊れて|傷ついて]いました。",
                    "届いた{thing}が[不良品|初期不良]のようで[す|、ボタンが反応しません]。",
                ),
            },
            "heldout": {
                "subject": ("{thing}に傷がありました", "初期不良かもしれません"),
                "body": (
                    "届いてすぐ開けましたが、{thing}の一部が割れています。",
                    "{thing}、一回使っただけで故障して電源がつかなくなりました。",
                    "{thing}のネジが二本足りず、ふたにもひびがありました。",
                    "中身が{thing}ではなく、違う色の別の商品でした。",
                ),
            },
        },
        "billing": {
            "train": {
                "subject": (
                    "[請求|支払い|領収書|請求書][について|の件]",
                    "[二重請求|二重に引き落とし]",
                    "[クーポン|割引][が使えない|が適用されない]",
                ),
                "body": (
                    "{thing}の代金が[二重に請求|二回引き落とし|重複して請求]されています。",
                    "{ref}の[領収書|請求書|明細書]を[送って|発行して][ください|いただけますか]。",
                    "[クーポン|割引コード|ポイント]が[適用されていません|使えませんでした|引かれていません]。",
                    "クレジットカードが[使えません|エラーになります]が、[引き落としはされています|請求だけ来ました]。",
                    "請求[金額|額]が[間違っています|ショップの価格と違います|高すぎます]。",
                    "カードの明細に{amount}の[覚えのない請求|知らない支払い]が[あります|載っています]。",
                    "[銀行振込|別のカード|分割払い]で[支払い|お支払い]できますか。",
                    "請求書の[宛名|会社名|税額]が[違います|間違っています]。",
                    "{ref}の代金を[振り込みました|支払いました]が、[未払い|未入金]のままです。",
                ),
            },
            "heldout": {
                "subject": ("カード請求額の確認", "領収書の宛名"),
                "body": (
                    "明細を見たところ、{thing}の代金として{amount}が二回請求されていました。",
                    "会社の経理に出すので、{ref}の領収書が必要です。",
                    "割引のクーポンを使ったはずが、支払い金額が変わっていません。",
                    "振込は済んでいるのに、支払いが確認できないと表示されます。",
                ),
            },
        },
        "account": {
            "train": {
                "subject": (
                    "[ログイン|パスワード|アカウント][について|の件|できない]",
                    "[メールアドレス|登録情報]の変更",
                    "[退会|アカウント削除]",
                ),
                "body": (
                    "[マイページ|アカウント|サイト]に[ログインできません|入れません|ログインできないです]。",
                    "パスワードを[忘れて|忘れてしまい]、再設定の[メールが届きません|リンクが使えません]。",
                    "登録の[メールアドレス|電話番号|名前]を[変更|更新]したいです。",
                    "アカウントが[ロック|停止|凍結]されて[います|しまいました]。",
                    "[アカウントを削除|退会|登録を削除][したい|させてほしい]です。",
                    "[認証コード|確認コード]が[届かず|来なくて]、[ログイン|サインイン]できません。",
                    "誰かが私のアカウントに[ログインした|不正に入った]ようです。",
                    "アプリが[毎回パスワードを聞いて|すぐログアウトして]きます。",
                    "アカウントを[二つ持っている|重複して作った]ので、[一つにまとめて|統合して]ほしいです。",
                ),
            },
            "heldout": {
                "subject": ("サイトに入れなくなりました", "登録の変更依頼"),
                "body": (
                    "正しいパスワードなのに、ログインの画面から先に進めません。",
                    "メールアドレスが新しくなったので、登録を直してください。",
                    "何度やってもアカウントがロックされ、サインインできない状態です。",
                    "確認コードのメールが来ないため、アカウントに入れません。",
                ),
            },
        },
        "question": {
            "train": {
                "subject": (
                    "{thing}について[質問|の質問|教えてください]",
                    "[在庫|サイズ|保証][の確認|について]",
                    "購入前の[質問|相談]",
                ),
                "body": (
                    "{thing}の在庫は[ありますか|いつ入りますか|ありますでしょうか]。",
                    "{thing}の[サイズ|重さ|寸法|色の種類]を教えて[ください|いただけますか]。",
                    "{thing}の保証[期間|]は[何年ですか|どのくらいですか|ありますか]。",
                    "{thing}は[水洗いできますか|防水ですか|海外でも使えますか|子供でも使えますか]。",
                    "{thing}の[購入を考えています|購入を検討中です]が、[どのモデルがおすすめですか|音は大きいですか]。",
                    "{thing}に[合う電池|合うフィルター|使える替え部品]は[どれですか|ありますか]。",
                    "{thing}の[説明書|取扱説明書]は[ありますか|ダウンロードできますか]。",
                    "{thing}と[新しいモデル|安いモデル]の違いは何ですか。",
                    "{thing}は[青|黒|赤|別の色]も[販売していますか|選べますか|ありますか]。",
                ),
            },
            "heldout": {
                "subject": ("{thing}の購入を検討しています", "色とサイズを知りたい"),
                "body": (
                    "まだ買っていませんが、{thing}は何色ありますか。",
                    "狭い部屋でも{thing}を使えるでしょうか、大きさを知りたいです。",
                    "{thing}の替え部品と説明書は手に入りますか。",
                    "{thing}を検討中です。保証は何年付きますか。",
                ),
            },
        },
    },
}

# What is said around the problem.
AROUND: Final[dict[str, dict[str, Table]]] = {
    "en": {
        "train": {
            "hello": (
                "Hi,",
                "Hello,",
                "Dear team,",
                "Dear Sir or Madam,",
                "Hey there,",
                "Good morning,",
                "",
            ),
            "opening": (
                "I hope you are well.",
                "I have been a customer for [years|a long time].",
                "I bought {thing} on {date}.",
                "This is the second time I write.",
                "",
                "",
                "",
            ),
            "order": (
                "[My|The] order [number|id|no.] is {id}.",
                "Order[ number|]: {id}",
                "It is about order {id}.",
                "[This is|It concerns] order {id} [of|from] {date}.",
                "Order id {id}.",
                "(Order {id})",
                "You can find it under order {id}.",
                "The number of my order is {id}.",
                "I placed order {id} on {date}.",
            ),
            "ref": ("[my|our] order {id}", "order {id}", "order number {id}", "the order {id}"),
            "noref": ("my order", "our order", "the order"),
            "thing": ("my {item}", "the {item}", "your {item}", "the {item} from your shop"),
            "other": (
                "My customer number is {other}.",
                "Invoice [number|no.]: {other}.",
                "The tracking number is {other}.",
                "The serial number on the back is {other}.",
                "You can call me at {phone}.",
                "My phone number is {phone}.",
                "Your colleague gave me ticket {other}.",
                "The model number is {other}.",
                "Zip code {zip}.",
                "Coupon code {other} was in the mail.",
            ),
            "otherorder": (
                "My other order {other} was fine.",
                "This is not about order {other}, that one arrived.",
                "Do not mix it up with my earlier order {other}.",
                "Order {other} is settled, no need to look at it.",
            ),
            "high": (
                "[This is|It is] [urgent|very urgent|extremely urgent|an emergency].",
                "I need [it|this|an answer|a solution|help] [today|by tomorrow|tonight|by tomorrow morning|before "
                "tomorrow evening|by tonight].",
                "Please [treat this as urgent|act immediately|hurry, we leave tomorrow].",
                "We [fly|travel|leave|move] tomorrow, so it [cannot wait|must be solved today].",
                "The [wedding|birthday|meeting|exam] is [today|tomorrow], so [please answer now|every minute counts].",
                "If I [hear nothing|get no answer] by [tonight|tomorrow], I [call the police|go to a lawyer].",
                "URGENT! [Answer today please.|Please help right now.]",
            ),
            "danger": (
                "[Sparks came out of it|It caught fire|There was smoke|It gave me an electric shock], this is dangerous.",
                "[Someone could get hurt|My son burned his hand|It is dangerous for my children].",
                "I got [an electric shock|burned|hurt], [be careful|this is not safe|that is really dangerous].",
            ),
            "low": (
                "[There is no hurry|No rush|No hurry at all|It is not urgent|Nothing urgent].",
                "[Take your time|Whenever you have time|Answer when it suits you].",
                "It can wait [until next month|a few weeks|as long as you need].",
                "I am [not in a hurry|only curious|in no rush].",
                "[Any time|Some time] [next month|this year] is [fine|early enough].",
                "Low priority, [take care of urgent cases first|others may go first].",
            ),
            "normal": (
                "",
                "",
                "",
                "Please [help|look into it|let me know|check this].",
                "Thank you for your help.",
                "I look forward to your answer.",
                "I would need it by the end of next month.",
                "It is a gift for a birthday next month.",
                "I was not happy about this.",
                "Could you [get back to me|write back|answer by email]?",
                "A reply this week would be nice.",
            ),
            "bye": (
                "Thanks,\n{name}",
                "Best regards,\n{name}",
                "Kind regards\n{name}",
                "{name}",
                "Cheers, {first}",
                "Many thanks\n{name}\n{phone}",
                "Yours sincerely,\n{name}\n{email}",
                "Sent from my phone",
                "",
            ),
            "quote": (
                "> On {date} you wrote:\n> Thank you for your message. We will look into it.",
                "-----Original message-----\nFrom: shop support\nYour reference: {other}\nThank you for shopping with us.",
                "> Dear customer, we received your mail (case {other}).",
            ),
        },
        "heldout": {
            "hello": ("Good afternoon,", "To whom it may concern,", "Hi support,", ""),
            "opening": (
                "Hope this reaches the right person.",
                "On {date} I got {thing} from you.",
                "",
                "",
            ),
            "order": (
                "The order in question has the number {id}.",
                "See order {id} in your system.",
                "My order no: {id}",
                "For reference, the order id: {id}.",
            ),
            "ref": ("this order ({id})", "order no. {id}", "the order with number {id}"),
            "noref": ("this order", "an order of mine"),
            "thing": ("that {item}", "our {item}", "the {item} I saw at your shop"),
            "other": (
                "Here is my customer id as well: {other}.",
                "The invoice has the number {other}.",
                "Tracking says {other}.",
                "Phone: {phone}.",
                "On the model plate it says {other}.",
            ),
            "otherorder": (
                "An older order, {other}, has nothing to do with this.",
                "I also had order {other}, which went fine.",
            ),
            "high": (
                "We leave tomorrow morning, so please hurry.",
                "I must have a solution before tonight.",
                "Please answer today, it is really urgent.",
                "Tomorrow is the birthday, so this cannot wait.",
            ),
            "danger": (
                "There was smoke, and I think this is dangerous for us.", "My daughter got hurt when she used it.",
            ),
            "low": (
                "Please answer whenever it suits you, I have time.",
                "This is not urgent in any way.",
                "No need to hurry, a few weeks are fine.",
                "Other customers may go first.",
            ),
            "normal": (
                "",
                "",
                "Let me know what you can do.",
                "Please check and write back.",
                "The gift is for next month.",
                "I hope for a reply by email.",
            ),
            "bye": (
                "Regards, {name}",
                "With thanks\n{name}",
                "Sincerely\n{name}\nTel. {phone}",
                "/{first}",
                "",
            ),
            "quote": (
                "> {date}, customer service wrote:\n> We have your mail, case number {other}.",
                "----\nForwarded message\nReference {other}: thank you for your message.",
            ),
        },
    },
    "ja": {
        "train": {
            "hello": (
                "お世話になっております。",
                "こんにちは。",
                "はじめまして。",
                "ご担当者様",
                "いつもお世話になっております。",
                "",
            ),
            "opening": (
                "{date}に{thing}を購入しました。",
                "先日そちらで買い物をした者です。",
                "{name}と申します。",
                "",
                "",
                "",
            ),
            "order": (
                "注文番号は{id}です。",
                "注文番号:{id}",
                "注文番号{id}の件です。",
                "ご注文番号は{id}になります。",
                "(注文番号 {id})",
                "注文IDは{id}です。",
                "{date}に注文した{id}の件でご連絡しました。",
                "オーダー番号 {id}",
            ),
            "ref": ("注文{id}の商品", "注文番号{id}", "注文{id}", "注文番号{id}の商品"),
            "noref": ("注文した商品", "注文", "先日の注文"),
            "thing": ("{item}", "注文した{item}", "そちらの{item}", "{item}"),
            "other": (
                "会員番号は{other}です。",
                "請求書番号は{other}です。",
                "追跡番号は{other}です。",
                "電話番号は{phone}です。",
                "製造番号は{other}と書いてあります。",
                "問い合わせ番号{other}で一度連絡しました。",
                "型番は{other}です。",
                "連絡先は{phone}です。",
                "郵便番号は{zip}です。",
            ),
            "otherorder": (
                "別の注文{other}は問題ありませんでした。",
                "以前の注文{other}の件ではありません。",
                "注文{other}は無事に届いています。",
            ),
            "high": (
                "[至急|大至急|今すぐ]対応を[お願いします|お願いいたします]。",
                "[今日中|本日中|明日まで]に[必要です|回答をください|何とかしてください]。",
                "[とても|かなり]急いでいます。",
                
                "明日[出発|引っ越し|使う予定|結婚式]なので、[急いでください|待てません]。",
                "緊急です。",
                "[今夜|明日の朝]までに[返事|連絡]がないと[困ります|間に合いません]。",
            ),
            "danger": (
                "[火花が出て|煙が出て|発火して|感電して]とても危険です。", "子供が[けがをしました|やけどをしました|けがをしそうです]。",
                "[危ない|とても危険な]ので使うのをやめました。",
            ),
            "low": (
                "[急ぎではありません|急いでいません|急ぎません]。",
                "お時間のあるときに[お願いします|返信ください|ご連絡ください]。",
                "[来月|いつ]でも[構いません|大丈夫です]。",
                "お手すきの際に[ご確認ください|教えてください]。",
                "ゆっくりで[いいです|結構です|大丈夫です]。",
            ),
            "normal": (
                "",
                "",
                "",
                "ご確認[ください|をお願いします|よろしくお願いします]。",
                "対応をお願いします。",
                "ご連絡お待ちしております。",
                "来月の誕生日プレゼントです。",
                "少し残念です。",
                "今週中にお返事いただけると[嬉しいです|助かります]。",
                "どうすればいいですか?",
            ),
            "bye": (
                "よろしくお願いいたします。\n{name}",
                "{name}",
                "以上、よろしくお願いします。",
                "どうぞよろしくお願い申し上げます。\n{name}\n{phone}",
                "{last}",
                "よろしく!",
                "{name}\n{email}",
                "",
            ),
            "quote": (
                "> {date} カスタマーサポート:\n> お問い合わせありがとうございます。",
                "> 受付番号{other}で承りました。",
                "-----\n前回のメール:\n担当者より折り返しご連絡いたします。(受付番号 {other})",
            ),
        },
        "heldout": {
            "hello": ("お忙しいところ失礼いたします。", "初めてご連絡します。", ""),
            "opening": ("{date}、{thing}をそちらで買いました。", "{last}です。", ""),
            "order": (
                "該当の注文番号は「{id}」です。",
                "注文の番号:{id}",
                "{id}という注文番号でした。",
            ),
            "ref": ("注文(番号 {id})", "注文番号「{id}」の品"),
            "noref": ("この前の注文", "注文した品"),
            "thing": ("購入した{item}", "こちらの{item}"),
            "other": (
                "なお、会員番号は「{other}」です。",
                "追跡用の番号は{other}でした。",
                "お電話は{phone}まで。",
                "請求書には{other}と書いてあります。",
            ),
            "otherorder": (
                "前回の注文{other}とは関係ありません。",
                "もう一つの注文{other}は届いていて問題ないです。",
            ),
            "high": (
                "明日使うので、急いで対応してください。",
                "至急のお返事をお願いいたします。",
                "本日中に何とかお願いします。",
            ),
            "danger": ("煙が出ていて危険を感じます。", "使った家族がけがをしてしまいました。"),
            "low": (
                "まったく急ぎませんので、ゆっくりで結構です。",
                "お時間のある時の返信で大丈夫です。",
                "来月になっても構いません。",
            ),
            "normal": (
                "",
                "",
                "確認して教えてください。",
                "お返事をお待ちします。",
                "来月の贈り物にするつもりです。",
            ),
            "bye": (
                "何卒よろしくお願い申し上げます。\n{name}",
                "{name} より",
                "{name}\n電話 {phone}",
                "",
            ),
            "quote": (
                "> サポート窓口より({date}):\n> 受付番号は{other}です。",
                "----- 転送メール -----\nお問い合わせありがとうございました。{other}",
            ),
        },
    },
}

STATUSES: Final = (
    "processing",
    "packed",
    "shipped",
    "in transit",
    "delivered",
    "cancelled",
    "returned",
)
CARRIERS: Final = ("DHL", "UPS", "Yamato", "FedEx", "Sagawa", "GLS")
