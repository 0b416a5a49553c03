"""The language of ordinary texts is found; of what does not tell, none is."""

import pytest

from sidecar.wire.validators_language import LANGUAGES, SAMPLE_CHARS, language_of, opens_like_refusal

TEXTS = {
    "ar": "يمكنك إعادة تعيين كلمة المرور من صفحة الإعدادات في أي وقت تريده.",
    "de": "Sie können das Passwort auf der Seite mit den Einstellungen ändern, wenn es nicht mehr sicher ist.",
    "el": "Μπορείτε να αλλάξετε τον κωδικό σας από τη σελίδα ρυθμίσεων.",
    "en": "You can change the password on the settings page, and it is not necessary to ask for help with that.",
    "es": "Puede cambiar la contraseña en la página de los ajustes, pero no es necesario que lo haga por ahora.",
    "fr": "Vous pouvez changer le mot de passe dans les réglages, mais ce n'est pas une obligation pour vous.",
    "he": "אפשר לשנות את הסיסמה בדף ההגדרות בכל עת שתרצו.",
    "hi": "आप सेटिंग पृष्ठ पर कभी भी अपना पासवर्ड बदल सकते हैं।",
    "it": "Può cambiare la password nella pagina delle impostazioni, ma non è una cosa che deve fare per forza con noi.",
    "ja": "設定ページでいつでもパスワードを変更することができます。",
    "ko": "설정 페이지에서 언제든지 비밀번호를 변경할 수 있습니다.",
    "nl": "U kunt het wachtwoord op de pagina met instellingen wijzigen, maar dat is niet nodig als het nog veilig is.",
    "pl": "Hasło można zmienić na stronie ustawień, ale nie jest to konieczne, jeśli hasło jest dla nas bezpieczne.",
    "pt": "Você pode mudar a senha na página de ajustes, mas não é preciso que isso seja feito com uma conta nova.",
    "ru": "Вы можете изменить пароль на странице настроек, если это ещё нужно и вы этого хотите.",
    "sv": "Du kan ändra lösenordet på sidan med inställningar, men det är inte nödvändigt om det är säkert för dig.",
    "th": "คุณสามารถเปลี่ยนรหัสผ่านได้ที่หน้าการตั้งค่าทุกเวลา",
    "tr": "Parolanızı ayarlar sayfasında değiştirebilirsiniz, ama bu çok önemli değil ve her zaman bir yol var.",
    "uk": "Ви можете змінити пароль на сторінці налаштувань у будь-який час, якщо він більше не є безпечним.",
    "zh": "您可以随时在设置页面更改密码，不需要联系我们。",
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_is_known(language: str) -> None:
    """One ordinary sentence is enough."""
    assert language_of(TEXTS[language]) == language


@pytest.mark.parametrize(
    "text",
    [
        "",
        "42",
        "OK",
        "Paris",
        '{"answer": "the and of to is in that it you for with"}',
        "[the and of to is in that it you for]",
        "```\nthe and of to is in that it you\n```",
        "https://example.com/the/and/of/to/is/in/that",
        "lorem ipsum dolor sit amet consectetur adipiscing elit",
        "это всё а це мій дім ы і ї ё и так далее потом",
        "да нет потом сначала",
        "در این صفحه می‌توانید گذرواژه را پیدا کنید و چیز دیگری",
        "the and of to is in der die das und ist nicht",
    ],
)
def test_what_does_not_tell_is_unknown(text: str) -> None:
    """Too short, code, JSON, an address, no listed language, or two of them."""
    assert language_of(text) is None


def test_code_and_addresses_do_not_count() -> None:
    """An English answer with much code in it is English; one in German with an English quotation is German."""
    assert language_of(TEXTS["en"] + "\n```python\n" + "der die das und ist nicht " * 20 + "\n```") == "en"
    assert language_of(TEXTS["de"] + " `the and of to is in that`") == "de"


def test_only_the_beginning_counts() -> None:
    """A text of megabytes costs what its first characters cost."""
    assert language_of(TEXTS["en"] * 100 + TEXTS["ru"] * 1000) == "en"
    assert language_of(" " * SAMPLE_CHARS + TEXTS["en"]) is None


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that request.",
        "I\u2019m sorry, but I can\u2019t assist with that.",
        "**I cannot assist** with that.",
        "Es tut mir leid, aber ich kann dabei nicht helfen.",
        "Je suis désolé, mais je ne peux pas vous aider.",
        "Lo siento, pero no puedo ayudarte con eso.",
        "申し訳ありませんが、そのご要望にはお応えできません。",
        "抱歉，我无法提供帮助。",
        "К сожалению, я не могу помочь.",
    ],
)
def test_refusals_are_recognised(text: str) -> None:
    """By their usual openings."""
    assert opens_like_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Sure, here it is.",
        "I'm sorry for the confusion. The answer is 4.",
        'The phrase "I can\'t help with" is common.',
    ],
)
def test_other_openings_are_none(text: str) -> None:
    """Regret alone, or the words in the middle, are no refusal."""
    assert not opens_like_refusal(text)
