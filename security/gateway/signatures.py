"""What SQL and script look like in a text that should hold neither, after security.gateway.shield.canonical.

Written to let people write: apostrophes, "select", "order by", comparisons and titles are no attacks by themselves.
Measured on an attack and on a benign corpus (tests/unit/gateway/test_shield.py).
"""

import re
from typing import Final

SQL: Final = "sql"
SCRIPT: Final = "script"

# Cheap to ask of every text: without any of these no signature can match.
WORTH_A_LOOK: Final = re.compile(
    r"[\"'<>;=()%&\\`{}#|*@\uff00-\uffef]|--"
    r"|union|select|script|sleep|drop|table|delete|insert|waitfor|having|order|schema|proto|document",
    re.IGNORECASE,
)

_EVENTS: Final = (
    "abort|afterprint|afterscriptexecute|animation\\w*|auxclick|before\\w+|begin|blur|bounce|cancel|canplay\\w*|change"
    "|click|close|contentvisibility\\w*|contextmenu|copy|cuechange|cut|dblclick|drag\\w*|drop|durationchange|emptied|end"
    "|ended|error|finish|focus\\w*|formdata|fullscreen\\w*|gesture\\w*|gotpointercapture|hashchange|input|invalid|key\\w+"
    "|load\\w*|lostpointercapture|message\\w*|mouse\\w+|mozfullscreen\\w*|page\\w+|paste|pause|play\\w*|pointer\\w+"
    "|popstate|progress|ratechange|readystatechange|repeat|reset|resize|scroll\\w*|search|securitypolicy\\w*|seek\\w+"
    "|select\\w*|show|slotchange|stalled|start|storage|submit|suspend|timeupdate|toggle|touch\\w+|transition\\w+"
    "|unhandledrejection|unload|volumechange|waiting|webkit\\w+|wheel"
)
_VALUE: Final = r"['\"`]?[\w.@$-]*['\"`]?"

_SQL: Final = (
    r"\bunion\b[\s(]*(?:all|distinct)?[\s(]*select\b",
    r"\bselect\b\s*(?:\*|@@|null\b|['\"(]|\d+\s*(?:,|from|--|#|$|\))|[\w.]+\s*[,(]).*",
    r"\bselect\b[\s(]+[\w.]+[\s)]+from[\s(]+[\w.]+\s*(?:where\b|limit\b|--|#|;|\)|$)",
    r";\s*(?:select|insert|update|delete|drop|alter|create|exec(?:ute)?|declare|shutdown|waitfor|truncate"
    r"|copy\s+\w+|grant\s+\w+\s+on|if\s*\(|call\s+\w+\s*\(|set\s+@)",
    # A quote that ends a literal, then a condition.
    rf"['\"`]\s*\)*\s*(?:\bor\b|\band\b|\bxor\b|\|\||&&|\bhaving\b|\bwhere\b)\s*\(*\s*(?:not\b|!)?\s*\(*{_VALUE}\s*"
    r"(?:=|<|>|!=|\blike\b|\brlike\b|\bregexp\b|\bbetween\b\s+\d|\bin\b\s*\(|\bis\s+(?:not\s+)?null)",
    r"['\"`]\s*\)*\s*(?:\bor\b|\band\b|\bxor\b|\|\||&&)\s*\(*(?:true|false|exists|not\s+false|\d+)\b\s*(?:--|#|;|\)|$|/\*)",
    r"\b(?:or|and|xor|where|having|when)\b[\s(]+['\"]?(\w+)['\"]?\s*(?:=|like|<=>)\s*['\"]?\1\b",
    r"\b(?:or|and|xor|having|where)\b[\s(]*\d+\s*(?:(?:=|between)\s*\d+|[<>]\s*\d+\s*(?:--|#|\)|$))",
    r"\b(?:or|and)\b\s+\(?\s*(?:select|exists|ascii|substr(?:ing)?|length|mid|ord|if|case|sleep|char_length)\b\s*\(",
    # A quote that ends a literal, then a call of some function, or a number that is true enough.
    r"['\"`]\s*\)*\s*(?:\bor\b|\band\b|\bxor\b|\|\||&&)\s*\(*\w+\(",
    r"['\"`]\s*\)*\s*(?:;|\|\|)\s*(?:return\b|this\.|db\.|var\b)|['\"`]\s*into\s*@",
    r"['\"`]\)*\s*(?:--|#|;--)\s*[-+]?\s*(?:$|\w{0,8}$)",
    r"['\"`]\)*;?--(?!['\"`])",
    r"^\s*\d*\)*\s*(?:--|#)\s*[-+]?\s*$",
    r"\b(?:pg_sleep|sleep|benchmark|load_file|extractvalue|updatexml|randomblob|group_concat|load_extension|pg_read_file"
    r"|lo_import|dblink\w*|xmltype|json_keys|row_count|makeset|elt|openrowset|opendatasource|exp|gtid_sub\w+|polygon"
    r"|multipoint|name_const|st_latfromgeohash)\s*\(\s*(?:['\"(@~a-z]|[\d.,\s]+\))",
    r"\b(?:xp_\w+|sp_(?:executesql|oacreate|password|makewebtask)|dbms_\w+|utl_(?:http|inaddr|smtp|file)\w*)\b",
    r"\b(?:information_schema|pg_catalog|pg_(?:user|shadow|tables)|sysobjects|syscolumns|sqlite_master|mysql\.user"
    r"|all_tables|v\$version)\b",
    r"@@(?:version|hostname|datadir|basedir|\w+)\b",
    r"\binto\s+(?:out|dump)file\b",
    r"\b(?:drop|truncate|alter)\s+(?:table|database|schema|user|function|view)\b\s*(?:if\s+exists\b|[\w.'\"`]+\s*(?:;|--|#|$|cascade\b"
    r"|add\b))",
    r"\binsert\s+into\b\s*[\w.`\"]+\s*(?:\(|values\b|select\b)",
    r"\bdelete\s+from\s+[\w.`\"]+\s*(?:where\b|;|--|#|$)",
    r"\bupdate\s+[\w.`\"]+\s+set\s+[\w.`\"]+\s*=",
    r"\bexec(?:ute)?\b\s*(?:\(|immediate\b|master\b|sp_|xp_|@)",
    r"\b(?:order|group)\s+by\s+\d+(?:\s*,\s*\d+)*\s*(?:--|#|/\*|$)",
    r"\bgroup\s+by\b.{0,80}\bhaving\b",
    r"\bprocedure\s+analyse\b",
    r"\bwaitfor\s+(?:delay|time)\b",
    r"\bcase\s+when\b.{0,200}\b(?:then|else)\b",
    r"\bif\s*\(\s*(?:\d|\(|ascii|substr|length|now|select)",
    r"\b(?:char|chr|nchar|unhex|hex|ascii|concat|concat_ws|convert|cast|substring|substr|mid)\s*\(\s*(?:0x|\d+\s*[,)]|\(|@@"
    r"|select|user|version|database|['\"]|\w+\s+as\s)",
    r"\b0x[0-9a-f]{6,}\b",
    r"['\"]\s*(?:\|\||\+)\s*['\"(]|['\"]\s*(?:\|\||\+)\s*\w+\s*\(",
    r"['\"]\s*(?:like|regexp|rlike|between|div|mod|<=>|::\w+|collate)\s*['\"%(\d]",
    r"['\"]\s*[-=]\s*['\"]|['\"]\s*[\^*&|=]\s*['\"\d]",
    r"\$(?:where|gt|lt|ne|gte|regex|or|nin?)\b",
)
_SCRIPT: Final = (
    r"</?[a-z][a-z0-9:-]*(?:[\s/>\"'`]|\+|$)(?!\d)",
    r"<[!?%]|</?(?:script|svg|img|iframe|math|style|body|object|embed|video|audio|details|input|form|x)",
    rf"(?:^|[\s\"'`/<>;,?&)])on(?:{_EVENTS})\s*=",
    r"\bon(?:error|load|click|focus|mouseover)\b\s*(?:=|%3d)",
    r"\b(?:javascript|vbscript|livescript)\s*:\s*(?:/|\\|%|\[|\(|['\"`]|void\b|//|\w+\s*[(.=`\[/]|\w+$)",
    r"j\s?a\s?v\s?a\s?s\s?c\s?r\s?i\s?p\s?t\s?:\s?\w+\s?[(`.]",
    r"\bdata\s*:\s*(?:text/(?:html|xml|javascript)|application/(?:xhtml|xml|javascript|x-javascript)|image/svg)",
    r"\b(?:document|window|self|top|parent|frames|globalthis|navigator|location|localstorage|sessionstorage)\s*"
    r"(?:\.\s*|\[\s*['\"`])(?:cookie|domain|location|write\w*|body|domain|href|hash|name|eval|alert|open|referrer|url"
    r"|getelement\w+|queryselector\w*|createelement|documentelement|implementation|defaultview|execcommand|forms|images"
    r"|replace|assign|search|constructor|print|confirm|prompt|postmessage|atob|setitem|getitem|settimeout|serviceworker"
    r"|sendbeacon|credentials|clipboard|onerror|origin|\w+['\"`]\s*\+)",
    r"\b(?:alert|confirm|prompt|eval|print|settimeout|setinterval|atob|fetch|importscripts|structuredclone)\s*(?:\?\.)?"
    r"\s*[(`]\s*(?:\d|['\"`/)]|document|window|location|self|top|this|atob|string|name|origin|url|hash|x\b|[a-z]+\s*[(.])",
    r"\b(?:alert|confirm|prompt|eval)\b\s*(?:`|\)\s*\(|['\"]\]|\.(?:call|apply|bind)\b|&lpar;|%28|//)",
    r"[\[.]\s*['\"`]?(?:alert|eval|constructor|__proto__|prototype|innerhtml|outerhtml|srcdoc)\b['\"`]?\s*[\](=.]",
    r"\b(?:fromcharcode|insertadjacenthtml|innerhtml|outerhtml|__proto__|trustedhtml|createcontextualfragment"
    r"|dangerouslysetinnerhtml|domparser|xlink:href|srcdoc)\b",
    r"\bconstructor\s*(?:\.|\[|\()",
    r"\{\{.*[\w$].*\}\}|[$#]\{[^}]*[.(*`+][^}]*\}|<%",
    r"\b(?:new\s+)?function\s*\(.*\)\s*(?:\{|\()|=>\s*\{?|\bimport\s*\(\s*['\"`]|\brequire\s*\(\s*['\"`]",
    r"\b(?:location|window\.name|document\.\w+)\s*=\s*['\"`\w]",
    r"\bexpression\s*\(|@import\b|-moz-binding|behavior\s*:\s*url|\burl\s*\(\s*['\"]?\s*(?:javascript|data)",
    r"['\"`]\s*[-+*/;]\s*(?:alert|confirm|prompt|eval|top|self|window|\(|\[)",
    r"\b(?:throw|onerror|typeof|delete|void|with)\b\s*[=(]?\s*(?:alert|eval|onerror|document)",
    r"\b(?:src|href|action|formaction|xmlns)\s*=\s*['\"]?\s*(?:javascript|data|vbscript|//|https?:)",
)

ALL: Final = tuple(
    (kind, re.compile("|".join(f"(?:{each})" for each in parts if "\\1" not in each), re.DOTALL))
    for kind, parts in ((SQL, _SQL), (SCRIPT, _SCRIPT))
) + tuple((SQL, re.compile(each)) for each in _SQL if "\\1" in each)
