"""What a captioner says instead of a caption: that it cannot, that it may not, that something is missing or failed.

A caption tells of what is in the picture. A refusal is talk, and is known by what talk is about, not by its sentences:

| rule        | what it speaks of                                                                            |
|-------------|----------------------------------------------------------------------------------------------|
| `apology`   | an opening that is said to somebody: sorry, unfortunately, hmm, hello, thank you              |
| `inability` | the speaker: "I" or "we" with an auxiliary or a verb of the mind, "my training", "as an AI"   |
| `talk`      | the listener: "your image", "you sent", questions and requests to them, offers                |
| `no_image`  | the input or the answer as a thing (image, link, caption, request …) that is missing or failed |
| `task`      | the task itself, denied: describing, identifying, saying … with not, impossible, unethical …   |
| `policy`    | rules: guidelines, privacy, moderation                                                       |
| `failure`   | a program's error                                                                            |
| `language`  | the first two or three of these in other languages than English                              |

Contractions are spelled out first, and what is quoted or said by a sign in the picture is left out.
"""

import re

_QUOTED = re.compile(r"[\"“][^\"”]{0,200}[\"”]|(?<!\w)['‘](?:[^'’]|['’](?=\w)){0,200}['’](?!\w)")
_WRITTEN = re.compile(  # what a sign says, or a collar
    r"\b(?:says|saying|reads|reading|titled|labell?ed|spelling|with the (?:words?|text|message|letters))\b(?! (?:to|"
    r"that|the|this|an?|your)\b)[^.!?\n]*|^[^.!?\n]{0,80}, (?:says|reads)\b",
    re.IGNORECASE,
)
_SPELLED = tuple(
    (re.compile(pattern), plain)
    for pattern, plain in (
        (r"[’`´]", "'"),
        (r"\bcan(?:not|'?t)\b", "can not"),
        (r"\bwon't\b", "will not"),
        (r"n't\b", " not"),
        (r"\bi'd\b", "i would"),
        (r"'m\b", " am"),
        (r"'ve\b", " have"),
        (r"'ll\b", " will"),
        (r"'re\b", " are"),
        (r"\blet's\b", "let us"),
        (r"\b(it|that|there|here|what|who|this)'s\b", r"\1 is"),
        (r"\b(?:really|currently|quite|actually|very|truly|simply|still|yet|also|even|just) ", ""),
    )
)


def any_of(*patterns: str) -> re.Pattern[str]:
    """One pattern that finds what any of these does, in any case."""
    return re.compile("|".join(patterns), re.IGNORECASE)


_PICTURE = r"(?:images?|pictures?|photos?|photographs?)"
_USED = r"(?:can|could|would|will|do|did|have|had|might|may|should)"
_THING = (
    rf"(?:{_PICTURE}|files?|attachments?|uploads?|links?|urls?|inputs?|data|requests?|responses?|answers?|outputs?|"
    r"captions?|descriptions?|contents?|messages?|conversations?|prompts?|questions?|quer(?:y|ies)|context|information|"
    r"details?|resources?|results?|thumbnails?|screenshots?|scans?|media|materials?|vision|recognition|captioning|"
    r"deployment|visual content|image (?:input|support|understanding))"
)
_NAMED = (  # verbs of the task that captions hardly ever need
    r"(?:(?:describ|identif|interpret|analy[sz]|speculat|disclos|fulfil|decod|caption)\w*|(?:comment|determin|generat|"
    r"process|infer|fetch|retriev|pars)(?:e|ing|ed)?\b|comply\b)"
)
_COMMON = (  # and those they may need
    r"(?:recogni[sz]|discuss|reveal|respond|assess|verif|provid|display|answer|access|view|load|open|tell|say|said|"
    r"help|assist|see|name|guess|show|read|giv|look|go into|make (?:out|sense)|work|come through|go through|arriv|"
    r"finish|upload|complet|produc|perceiv|receiv|support|includ|allow)\w*"
)
_DOING = rf"(?:{_NAMED}|{_COMMON})"
_BAD = (
    r"(?:unavailable|unsupported|missing|invalid|corrupt(?:ed)?|inaccessible|unreadable|insufficient|unclear|"
    r"restricted|blocked|denied|refused|rejected|withheld|removed|deleted|flagged|filtered|suppressed|prohibited|"
    r"forbidden|disallowed|unsafe|overloaded|offline|failed|exceeded|detected|expired|redacted|censored|terminated|"
    r"ended|inappropriate|unethical|impossible|unidentifiable|unknown|disabled|illegible|off limits|out of bounds)"
)
_GOOD = (
    r"(?:available|accessible|supported|provided|found|attached|included|received|given|shared|visible|possible|"
    r"permitted|allowed|authori[sz]ed|present(?:ed)?|sufficient|enough|clear enough|readable|safe|appropriate|able|"
    r"enabled|offered|legible|active)"
)
_GAP = (
    r"(?:(?!(?:of|that|which|who|with|an?|the|there|two|one|some|shows?|showing)\b|depict)[\w'-]+ )"  # no new subject
)
_NOT = (
    r"(?:(?:can|could|do|does|did|will|would|may|might|must|should|has|have|had|is|are|was|were)(?: not| never)|never)"
)
_NO = (
    r"(?:not|no|never|nobody|nothing|unable|impossible|difficult|hard|tough|unethical|inappropriate|declin\w+|refus\w+|"
    r"avoid\w*)"
)
_RULES = r"(?:guidelines?|polic(?:y|ies)|terms of (?:use|service)|rules|privacy|regulations)"
_BROKEN = (
    r"(?:violat\w+|against|breach\w*|prevent\w*|prohibit\w*|accordance|in line with|due to|because of|not allow\w*)"
)

_RULES_OF_TALK = {
    "apology": any_of(
        r"^\W*(?:oops|hmm+|um+|uh|yikes|nope|whoops|alas|regrettably|unfortunately|sadly,)\b",
        r"^\W*(?:i am |we are )?(?:so |terribly )?sorry(?= (?:for|about|but|i|no|we|to|that|this|there|the)\b|\W*$|"
        r"[,.!])",
        r"\b(?:my|our|sincere) apolog|\bapolog(?:y|ies)\W*(?:but|for|$)|^\W*apolog|\bi apologi[sz]e",
        r"^\W*(?:hello|hi|hey|greetings)(?: there)?\s*[,!.]|^\W*thank(?:s| you)(?: (?:for|so|very)\b|\s*[,!.]|\W*$)",
    ),
    "inability": any_of(
        r"\bi am (?:not|only|un|sorry|afraid|here to|able|happy|glad|having|struggling|trying|going to|programmed|"
        r"designed|trained|built|instructed|limited|required|[^.!?]{0,40}\b(?:model|ai|assistant|program|chatbot|bot|"
        r"machine|computer|intelligence)\b)",
        r"\bi (?:do|did|can(?! see\b)|could|will|would|shall|should|must|may|might|need|lack|require|refuse|decline|"
        r"prefer|choose|avoid|rely|wish|regret|understand|appreciate|advise|recommend|suggest|hope|want|see (?:that|"
        r"no|only))\b",
        r"\bi (?:only|am drawing a blank)\b|\bno (?:idea|clue)\W*$|\bno access to\b|^\W*who knows\b|\brules i\b|"
        r"\bi (?:have|had) (?:not|no|been|to|trouble|difficult|limited|never)|\bi think (?:i|you|we|that (?:i|you|"
        r"we))\b",
        r"\bi was (?:not|un|trained|designed|built|programmed|made|created|instructed)",
        rf"\bwe (?:are (?:not|unable|sorry)|{_NOT}|need to|must|apologi)",
        r"\bmy (?:\w+ )?(?:guideline|programming|training|purpose|vision|abilit|capabilit|instruction|knowledge|polic|"
        r"rules|principles|creators?|developers?|settings|end\b|side\b)",
        r"\b(?:visible|available|accessible|possible|clear) to me\b|\bfor me(?: to\b|\W*$)|\bfrom me\b",
        r"^\W*(?:as|being) an? [^,.]{0,50}\b(?:ai|model|assistant|chatbot|program|bot|artificial intelligence)\b",
        r"\blanguage models?\b|\bas an ai\b|\bi,? as an\b|\btext-(?:only|based) (?:model|ai|assistant)",
        r"\bthe (?:assistant|model|system|ai|chatbot) (?:is |was |has |had |can |could |did |does |will |"
        r"would )?(?:not|unable|declin|refus|reject|fail)",
    ),
    "talk": any_of(
        rf"\byour (?:\w+ ){{0,2}}(?:{_THING}|curiosity|understanding|patience|feedback)\b",
        rf"\byou (?:{_USED} )?(?:not (?!\w+ know)|any\b|seem|sent|provide|attach|upload|shared?\b|ask|want me|"
        rf"forg[eo]t|mention|mean\b|"
        r"describe|gave|typed?\b|refer|submit|linked|posted|request|would like|tell (?:me|us)|give me|are (?:asking|"
        r"referring))",
        rf"\b{_USED} you (?:\w+ )?(?:{_DOING}|send|share|attach|mind|like|want|have (?:a|any)|mean|try|clarify|"
        rf"elaborate)\b"
        r"(?<!see)(?<!find)(?<!guess)",
        r"\b(?:how|what|which|where)(?: \w+)? (?:can|may|could|should|shall) i\b|\bwhat (?:would|do) you (?:want|like|"
        r"mean|need|see)",
        rf"\b(?:please|kindly) (?:\w+ )?(?:{_COMMON}|{_NAMED}|send|try|retry|attach|share|note|reload|contact|check|"
        rf"retake|"
        r"go ahead|specify|clarify|ensure|be|ask|let|wait|rephrase|resend|consider|include|add)\b",
        r"(?:^|[.!?,] )\W*(?:try|send|upload|attach|provide|share|reload|resend|retry|contact|consult|ask|specify|give|"
        r"check)"
        rf" (?:again|me|us|it|support|someone|an?(?: \w+)? (?:{_THING}|professional|expert)|(?:the|your|"
        rf"another)(?: \w+)? {_THING})",
        r"^\W*make sure|\bfeel free\b|\blet us (?:talk|try|change|stop|move|discuss|know)|\b(?:tell|give|send|show|"
        r"ask|let|allow|help|pardon|excuse|forgive) me\b|\bhow about\b|\bchange the (?:subject|topic)",
        r"\b(?:happy|glad|pleased|ready) to (?:help|assist|describe|write|try|answer)|\b(?:something|"
        r"anything) (?:else|specific|i)\b",
        rf"\btry (?:again|another)\b|^(?:what|which) {_THING}\W*$|\bwhat {_PICTURE}\?",
    ),
    "no_image": any_of(
        rf"\b{_THING},? {_GAP}{{0,5}}?(?:is|was|are|were|been|be|appears?|seems?|has|have) (?:to be )?(?:(?:too|as|"
        rf"currently|so) )?(?:{_BAD}|not(?: been)? {_GOOD})\b",
        rf"\b{_PICTURE} (?:quality )?(?:link |file )?(?:is|was|appears to be|seems to be) (?:blank|empty|"
        rf"broken)(?: or\b|\s*(?:[.!,?]|$))",
        rf"\b{_PICTURE} {_GAP}{{0,3}}?(?:is|was) too (?:\w+ ){{1,2}}(?:to|for)\b|\btoo \w+(?: \w+)? (?:to|"
        rf"for me to) (?:{_NAMED}|tell|say|make out)|\btoo \w+ for an?y? (?:\w+ )?{_THING}\b|^\W*not enough\b|"
        rf"^\W*(?:looks|seems|sounds) like (?:the|your) {_THING}\b",
        rf"\b{_THING},? {_GAP}{{0,5}}?(?:{_NOT}|fail(?:ed|s) to|unable to) (?:be |been )?(?:\w+ly )?(?:be )?{_DOING}",
        rf"^\W*(?:\w+ )?{_THING} (?:not (?:yet )?(?:been )?{_GOOD}|{_BAD})\b(?! (?:from|by an?|in an?|on an?|behind|"
        rf"under)\b)",
        rf"^\W*(?:invalid|missing|unsupported|insufficient|not enough|unclear|unknown|corrupt(?:ed)?|blocked|"
        rf"unreadable|bad) (?:\w+ )?{_THING}\b(?! of\b)",
        rf"\bno (?:\w+ ){{0,2}}?(?:{_THING}|comment)(?:\W*$|,|[.!?]| (?:was|is|has|were|are|can|could|may|will|to|for|"
        rf"here|in (?:the|your|our|this) (?:request|message|conversation|input|prompt)|(?:\w+ )?{_GOOD}|seems|"
        rf"appears)\b)",
        rf"\bthere (?:is|are|was|were|seems?|appears?|do(?:es)? not (?:seem|appear))(?: to be)? (?:no|not|nothing|any|"
        rf"an error) (?:\w+ ){{0,3}}?(?:{_THING}|{_NAMED})\b(?! on\b)",
        rf"(?:\bnot|n't)\b.{{0,20}}\b(?:an|any|the) {_PICTURE}\s*(?:[.!,?]|$|here|attached|in your)",
        r"\b(?:any|no) imaginary content\b|\bbased on (?:the|its) visible content\b|\bwhere is the (?:image|picture|"
        r"photo)\W*$",
        r"\bnot (?:been )?(?:uploaded|attached|received)\b|\bforg[eo]t(?:ten)? (?:to (?:attach|upload|include|share)|"
        r"the attach)",
        rf"\bwithout (?:see|hav|know|access|more|further|any|additional)\w* (?:[\w]+ ){{0,3}}?{_THING}\b",
        rf"\bthe {_PICTURE} (?:is|was) (?:missing|broken)\s*(?:[.!,?]|$)",
    ),
    "task": any_of(
        rf"\b{_NO}\b(?: \w+){{0,5}}? {_NAMED}",
        rf"\b(?:{_NOT}|unable to|impossible to|difficult to|hard to) (?:be )?(?:\w+ )?(?:tell|say|named|told|make out|"
        rf"make sense|know)\b(?= |\W*$)",
        r"\b(?:describ|caption|identify|speculat|generat|comment)ing\b[^.!?]{0,50}\b(?:not|unethical|against|"
        r"violat\w+|wrong|inappropriate|impossible|isn)\b",
        r"\bnot (?:\w+ )?(?:allowed|permitted|authori[sz]ed|supposed|appropriate|comfortable|willing|going|"
        r"something)\b[^.!?]{0,20}"
        rf"\b(?:to|that|i)\b(?: \w+)? {_DOING}",
        r"\b(?:be|is|are) (?:\w+ )?speculation\b|\bone can only guess\b|\bunclear (?:what|who|where|whether|how)\b",
        r"\bnothing to (?:describe|see|say|caption)\b|\bit is (?:not possible|impossible)\b(?! to see\b)|\b(?:scope|"
        r"beyond|outside)(?: of)? what (?:i|we|the)\b",
    ),
    "policy": any_of(
        rf"\b{_BROKEN}\b[^.!?]{{0,40}}\b{_RULES}\b|\b{_RULES}\b[^.!?]{{0,30}}\b(?:{_BROKEN}|do not)\b",
        r"\b(?:content|community|usage|safety) (?:guidelines|polic(?:y|ies)|filters?|settings|system|violation|"
        r"restrictions)\b",
        r"\b(?:may|might|could|appears to|seems to) (?:contain (?:\w+ )?(?:content|material)|violate|breach|"
        r"infringe)\b",
        r"\b(?:privacy|ethical|legal|copyright|policy) (?:reasons|considerations|concerns|restrictions)|\b(?:respect|"
        r"protect) (?:\w+ )?privacy|\bgiven the sensitive",
        r"\bmoderat(?:ion|ors?)\b|\bflagged (?:as|for|by)\b|\b(?:privacy|safety) protected\b|\bprivacy of\b|"
        r"\b(?:outside|out of) (?:the |my )?scope|\bfor safety reasons\W*$|\bviolat\w+ (?:\w+ )?(?:content|guidelines|"
        r"polic)",
        r"\b(?:harmful|explicit|sexual|unsafe|sensitive|graphic|violent) (?:content|material|imagery)\b[^.!?]{0,30}\b"
        rf"(?:{_BAD}|not|can|so)\b",
    ),
    "failure": any_of(
        rf"^\W*(?:sorry,? )?(?:unable to|not able to|fail(?:ed|ure) to|fails to|can not|could not|"
        rf"impossible to) (?:\w+ ){{0,2}}?{_DOING}",
        r"^\W*(?:error|exception|fatal|traceback|timeout|timed out|warning|internal|access denied|permission denied|"
        r"request (?:denied|refused|failed|rejected))\b\s*(?:[:!.]|\d{3}\b|while|server|error|$)",
        r"\bout of memory\b|\brate limit|\binternal (?:server )?error\b|\bsomething went wrong\b|\b(?:model|"
        r"server) (?:is )?(?:overloaded|busy|down)\b|\btry again later\b|\bretry\b",
        r"\b(?:an )?error (?:has |have )?(?:occurred|while|(?:in )?(?:processing|loading|decoding|generating|reading))",
        rf"^\W*(?:{_BAD})\W*$|[\"'](?:error|reason)[\"']\s*:",
    ),
    "language": any_of(
        # sorry, unfortunately
        r"\b(?:tut (?:mir|uns) (?:sehr |wirklich )?leid|entschuldigung|verzeihung|^leider|désolée?|^malheureusement|"
        r"lo siento|lamento|lamentablemente|disculp[ae]|desculp[ae]|infelizmente|lamentavelmente|mi dispiace|"
        r"purtroppo|scusa|het spijt|^helaas|przepraszam|przykro mi|^niestety|tyvärr|förlåt|beklager|desværre|undskyld|"
        r"bohužel|omlouvám|anteeksi|valitettavasti|sajn[oá]l|elnézést|îmi pare rău|din păcate|üzgünüm|maalesef|özür|"
        r"xin lỗi|rất tiếc|^\W*maaf|извин|прост[иь]|к сожалению|вибач|на жаль|съжалявам|λυπάμαι|συγγνώμη)",
        r"抱歉|对不起|對不起|不好意思|遗憾|遺憾|申し訳|すみません|ごめん|残念ながら|죄송|미안|유감|عذر|آسف|للأسف|माफ़|"
        r"माफ|क्षमा|खेद|ขออภัย|ขอโทษ|מצטער|סליחה|متأسف",
        # I cannot, I have not; the person is in the verb, or before it
        r"\bich (?:kann|darf|habe|bin|sehe|möchte|werde)\b[^.!?]{0,60}\b(?:nicht|keine?[nrms]?|leider)\b",
        r"\bje (?:ne|n')\b|\bje n['’]|\b(?:no|não|non) (?:puedo|tengo|veo|posso|consigo|tenho|vejo|riesco|ho|vedo)\b",
        r"\bik (?:kan|mag|heb|zie)\b[^.!?]{0,40}\b(?:niet|geen)\b|\bnie (?:mogę|widzę|mam|jestem)\b|\bjag (?:kan|ser|"
        r"får|har) inte\b",
        r"\bjeg (?:kan|ser|har) (?:ikke|desværre)\b|\bnemoh?u\b|\bnu pot\b|\ben (?:voi|pysty)\b|\bnem tud(?:ok|om)\b|"
        r"\b\w+[ae]mıyorum\b|\b\w+emiyorum\b|\btôi không\b|\bsaya tidak\b|я не (?:могу|вижу|мож)|не могу|не можу|"
        r"δεν μπορώ",
        r"无法|無法|我不能|不能(?:协助|提供|回答|描述)|看不到|没有(?:看到|收到|图|提供)|できません|できかね|見ること|"
        r"わかりません|見つかりません|할 수 없|볼 수 없|수 없습니다|없습니다|لا أستطيع|لا يمكنني|नहीं (?:कर|देख) सक|"
        r"ไม่สามารถ|לא יכול|איני יכול",
        # as a model
        r"\b(?:ki|sprach)-?modell|modèle (?:de langage|d'ia)|modelo (?:de (?:lenguaje|linguagem|ia)|lingü)|"
        r"modello linguistico|taalmodel|model językowy|språkmodell|языков\w+ модел|人工智能|语言模型|語言模型|"
        r"言語モデル|언어 모델|نموذج لغ",
        # please; the image is missing
        r"^\W*(?:bitte|veuillez|por favor|per favore|prosz[ęe]|пожалуйста|vui lòng|silakan|lütfen)\b|请(?:上传|提供|"
        r"重新|发送)|ください|してください|주세요|请您",
        r"\b(?:bild|foto|datei)\b[^.!?]{0,30}\b(?:konnte|wurde|kann|ist)\b[^.!?]{0,20}\b(?:nicht|kein)|\bkein (?:bild|"
        r"foto)\b|\baucune (?:image|photo)|\bninguna (?:imagen|foto)|\bnenhuma (?:imagem|foto)|\bnessuna (?:immagine|"
        r"foto)|\b(?:imagen|imagem|immagine|image)\b[^.!?]{0,20}\b(?:no se pudo|no está|não foi|não pôde|non è|"
        r"n'a pas|n'est pas)",
    ),
}


def refused(text: str) -> str:
    """The rule by which a text is talk and no caption, or nothing."""
    said = _own(text)
    return next((rule for rule, pattern in _RULES_OF_TALK.items() if pattern.search(said)), "")


def _own(text: str) -> str:
    """The captioner's own words, in small letters and spelled out; all of them where nothing else is left."""
    own = _WRITTEN.sub("", _QUOTED.sub("", text))
    said = (own if re.search(r"\w", own) else text).strip().lower()
    for pattern, plain in _SPELLED:
        said = pattern.sub(plain, said)
    return said
