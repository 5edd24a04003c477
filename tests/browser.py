"""A real headless Chromium, driven by its own protocol (https://chromedevtools.github.io/devtools-protocol/)."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType

from tests.waiting import until

SECONDS: Final = 30.0
CHROMIUM: Final = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS: Final = (
    "--headless=new",
    "--no-sandbox",  # as root there is none
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--disable-features=Translate,MediaRouter,OptimizationHints",
    "--no-first-run",
    "--no-default-browser-check",
    "--no-proxy-server",
    "--mute-audio",
    "--hide-scrollbars",
    "--font-render-hinting=none",
    "--remote-debugging-port=0",
    "about:blank",
)
KEYS: Final = {
    "Tab": 9,
    "Enter": 13,
    "Escape": 27,
    "PageUp": 33,
    "PageDown": 34,
    "End": 35,
    "Home": 36,
    "ArrowUp": 38,
    "ArrowDown": 40,
}

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here (apt install chromium)")


class Browser:
    """One Chromium. Each page that it opens is as if in a browser of its own: no cookie is shared."""

    def __init__(self, socket: ClientWebSocketResponse, group: int) -> None:
        """`group` is the process group of all of its processes."""
        self._socket = socket
        self._group = group
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._pages: dict[str, Page] = {}

    async def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """A command of the protocol, and its result."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if session is not None:
            message["sessionId"] = session
        await self._socket.send_json(message)
        async with asyncio.timeout(SECONDS):
            return await answer

    def freeze(self) -> None:
        """Stops all of its processes: it reads nothing, and answers nothing, until `thaw()`."""
        os.killpg(self._group, signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets it go on."""
        os.killpg(self._group, signal.SIGCONT)

    async def read(self) -> None:
        """Takes what Chromium says."""
        async for message in self._socket:
            if message.type is not WSMsgType.TEXT:
                continue
            said = json.loads(message.data)
            if "id" in said:
                answer = self._answers.pop(said["id"])
                if answer.done():
                    continue
                if "error" in said:
                    answer.set_exception(RuntimeError(said["error"]["message"]))
                else:
                    answer.set_result(said["result"])
            elif page := self._pages.get(said.get("sessionId", "")):
                page.hear(said["method"], said["params"])

    async def page(self, url: str | None = None, *, context: str | None = None) -> Page:
        """A new page, in a new context unless one is given."""
        if context is None:
            context = (await self.call("Target.createBrowserContext"))["browserContextId"]
        target = (await self.call("Target.createTarget", url="about:blank", browserContextId=context))["targetId"]
        session = (await self.call("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        page = self._pages[session] = Page(self, session, target, context)
        for domain in ("Page", "Runtime", "Log", "Network"):
            await page.call(f"{domain}.enable")
        await page.size(1280, 800)
        if url is not None:
            await page.go(url)
        return page


class Page:
    """One tab."""

    def __init__(self, browser: Browser, session: str, target: str, context: str) -> None:
        self.browser = browser
        self.context = context
        self.errors: list[str] = []
        """What was thrown, refused or complained about."""
        self.requests: list[str] = []
        """Every URL that was asked for."""
        self.statuses: dict[str, int] = {}
        self._session = session
        self._target = target
        self._loaded = asyncio.Event()

    def hear(self, method: str, params: dict[str, Any]) -> None:
        """An event."""
        if method == "Page.loadEventFired":
            self._loaded.set()
        elif method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"])[:500])
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.errors.append(json.dumps(params["args"])[:500])
        elif method == "Page.javascriptDialogOpening":
            self.errors.append(f"dialog: {params['message']}")
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Network.responseReceived":
            self.statuses[params["response"]["url"]] = params["response"]["status"]

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """A command of the protocol to this page."""
        return await self.browser.call(method, self._session, **params)

    async def go(self, url: str) -> None:
        """Leads the page there, and waits until it is loaded."""
        self._loaded.clear()
        await self.call("Page.navigate", url=url)
        async with asyncio.timeout(SECONDS):
            await self._loaded.wait()

    async def eval(self, expression: str) -> Any:
        """What an expression gives, its promise awaited."""
        answer = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in answer:
            raise AssertionError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    async def wait(self, expression: str) -> Any:
        """What an expression gives once that is true."""
        try:
            return await until(lambda: self.eval(expression), expression, seconds=SECONDS, pause=0.02)
        except TimeoutError:
            seen = await self.eval("document.body.innerText")
            raise AssertionError(f"never: {expression}\n{seen}\n{self.errors}") from None

    async def text(self, selector: str) -> str:
        """The text of an element."""
        found: str = await self.eval(f"document.querySelector({json.dumps(selector)}).innerText")
        return found

    async def texts(self, selector: str) -> list[str]:
        """The texts of all visible elements, from top to bottom."""
        found: list[str] = await self.eval(
            f"[...document.querySelectorAll({json.dumps(selector)})].filter(e => e.offsetParent !== null)"
            ".map(e => [e.getBoundingClientRect().top, e.innerText]).sort((a, b) => a[0] - b[0]).map(p => p[1])"
        )
        return found

    async def click(self, selector: str) -> None:
        """Presses and releases the mouse in the middle of an element."""
        x, y = await self.eval(
            f"(r => [r.left + r.width / 2, r.top + r.height / 2])"
            f"(document.querySelector({json.dumps(selector)}).getBoundingClientRect())"
        )
        for kind in ("mousePressed", "mouseReleased"):
            await self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    async def press(self, key: str) -> None:
        """Presses a key: a name of KEYS or a character."""
        text = {} if len(key) > 1 else {"text": key}
        code = KEYS.get(key, ord(key[0].upper()))
        down = "keyDown" if text else "rawKeyDown"
        for kind in (down, "keyUp"):
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **text)

    async def type(self, text: str) -> None:
        """Types where the focus is."""
        await self.call("Input.insertText", text=text)

    async def size(self, width: int, height: int, *, scale: float = 1, mobile: bool = False) -> None:
        """The size of the window."""
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=mobile
        )

    async def media(self, **features: str) -> None:
        """What the system prefers, e.g. prefers_color_scheme="dark"."""
        listed = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        await self.call("Emulation.setEmulatedMedia", features=listed)

    async def screenshot(self, form: str = "png", **options: Any) -> bytes:
        """A picture of the window."""
        return base64.b64decode((await self.call("Page.captureScreenshot", format=form, **options))["data"])

    async def close(self) -> None:
        """Closes the tab."""
        await self.browser.call("Target.closeTarget", targetId=self._target)


@contextlib.asynccontextmanager
async def chromium(*flags: str, environ: Mapping[str, str] | None = None) -> AsyncIterator[Browser]:
    """Runs Chromium, with further flags."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        # It ends with us, however we end: it is no child of a shell that would see to that.
        tied = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        process = subprocess.Popen(  # noqa: ASYNC220 - it takes a moment
            [*tied, CHROMIUM, f"--user-data-dir={folder}", *flags, *FLAGS],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"], "HOME": folder, "LANG": "C.UTF-8", "TZ": "UTC", **(environ or {})},
            start_new_session=True,
        )
        reading = None
        try:
            place = Path(folder) / "DevToolsActivePort"
            async with ClientSession() as session:

                def has_started() -> bool:
                    assert process.poll() is None, "chromium does not start"
                    return place.exists() and "\n" in place.read_text()

                await until(has_started, "chromium has started", seconds=SECONDS, pause=0.02)
                port, path = place.read_text().splitlines()[:2]
                async with asyncio.timeout(SECONDS):
                    socket = await session.ws_connect(f"ws://127.0.0.1:{port}{path}", max_msg_size=0)
                browser = Browser(socket, process.pid)
                reading = asyncio.create_task(browser.read())
                yield browser
                with contextlib.suppress(TimeoutError, RuntimeError, ConnectionError):
                    await asyncio.wait_for(browser.call("Browser.close"), 5)
        finally:
            if reading is not None:
                reading.cancel()
            if process.poll() is None:
                os.killpg(process.pid, 9)
            process.wait()
