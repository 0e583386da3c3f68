// Settings out of files and texts. A file is read here: it is not sent, only the texts in it are.
const LETTERS = new TextEncoder();
const MOST = 64 * 2 ** 20; // bytes of a file that are looked at
const LATIN = new TextDecoder('latin1');
const UTF8 = new TextDecoder();

function letters(bytes, at, count = 4) {
  return LATIN.decode(bytes.subarray(at, at + count));
}

function viewOf(bytes) {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

// A PNG's chunks, up to its pixels' first one or to its end.
function* chunksOf(bytes) {
  const data = viewOf(bytes);
  for (let at = 8; at + 12 <= bytes.length;) {
    const end = at + 12 + data.getUint32(at);
    const body = bytes.subarray(at + 8, end - 4);
    yield { kind: letters(bytes, at + 4), body, whole: bytes.subarray(at, end) };
    at = end;
  }
}

// tEXt, and iTXt that is not packed.
function textsOfPNG(bytes) {
  const found = {};
  for (const { kind, body } of chunksOf(bytes)) {
    const end = body.indexOf(0);
    const name = letters(body, 0, Math.max(0, end));
    if (kind === 'tEXt') found[name] = LATIN.decode(body.subarray(end + 1));
    if (kind === 'iTXt' && body[end + 1] === 0) {
      const language = body.indexOf(0, end + 3);
      const translated = body.indexOf(0, language + 1);
      found[name] = UTF8.decode(body.subarray(translated + 1));
    }
  }
  return found;
}

// The boxes of an MP4 between two places.
function* boxesOf(bytes, from, to) {
  const data = viewOf(bytes);
  for (let at = from; at + 8 <= to;) {
    const end = at + Math.max(8, data.getUint32(at));
    yield { kind: letters(bytes, at + 4), from: at + 8, to: Math.min(end, to) };
    at = end;
  }
}

function boxOf(bytes, outer, kind) {
  return outer && [...boxesOf(bytes, outer.from, outer.to)].find(box => box.kind === kind);
}

function tagsOf(bytes) {
  return boxOf(bytes, boxOf(bytes, { from: 0, to: bytes.length }, 'moov'), 'udta');
}

// What nag/media/metadata.py calls comment and description; other tools have comments, too.
function textsOfMP4(bytes) {
  const found = {};
  const meta = boxOf(bytes, tagsOf(bytes), 'meta');
  const list = meta && boxOf(bytes, { from: meta.from + 4, to: meta.to }, 'ilst');
  for (const tag of list ? boxesOf(bytes, list.from, list.to) : []) {
    const text = boxOf(bytes, tag, 'data');
    const name = { '\u00a9cmt': 'parameters', desc: 'nag' }[tag.kind];
    if (name && text) found[name] = UTF8.decode(bytes.subarray(text.from + 8, text.to));
  }
  return found;
}

// A1111 writes its line into EXIF's UserComment, and so does the animation that is saved here.
function textsOfEXIF(bytes) {
  const data = viewOf(bytes);
  let exif = null;
  if (letters(bytes, 8) === 'WEBP') {
    for (let at = 12; at + 8 <= bytes.length;) {
      const length = data.getUint32(at + 4, true);
      if (letters(bytes, at) === 'EXIF') exif = bytes.subarray(at + 8, at + 8 + length);
      at += 8 + length + (length % 2);
    }
  } else {
    for (let at = 2; at + 4 <= bytes.length && bytes[at] === 255;) {
      const length = data.getUint16(at + 2);
      if (bytes[at + 1] === 0xe1 && !exif) exif = bytes.subarray(at + 4, at + 2 + length);
      at += 2 + length;
    }
  }
  const at = exif ? LATIN.decode(exif).indexOf('UNICODE\0') : -1;
  if (at < 0) return {};
  return { parameters: new TextDecoder('utf-16be').decode(exif.subarray(at + 8)).split('\0')[0] };
}

function textsOf(bytes) {
  if (bytes.length < 16) return {};
  if (letters(bytes, 1, 3) === 'PNG') return textsOfPNG(bytes);
  if (letters(bytes, 4) === 'ftyp') return textsOfMP4(bytes);
  if (letters(bytes, 8) === 'WEBP' || viewOf(bytes).getUint16(0) === 0xffd8)
    return textsOfEXIF(bytes);
  return {};
}

// What is told once the page has taken the settings in; of what it refuses there is a toast.
let toTell = '';
addEventListener('nag-applied', event => {
  if (element.isConnected && event.detail && toTell) tell(toTell);
  toTell = '';
});

async function openFile(file) {
  if (/\.(json|txt)$/i.test(file.name)) {
    openText(await file.text());
    return;
  }
  const texts = textsOf(new Uint8Array(await file.slice(0, MOST).arrayBuffer()));
  const known = Object.fromEntries(
    Object.entries(texts).filter(
      ([name, text]) => ['nag', 'parameters', 'prompt'].includes(name) && text.length < 100000,
    ),
  );
  toTell = 'The settings of ' + file.name + ' are read.';
  trigger('input', { text: { none: '', ...known } });
}

function openText(text) {
  toTell = 'The text is read.';
  trigger('input', { text: { pasted: text.slice(0, 100001) } });
}

function openOpen(button) {
  const menu = $('#open-menu');
  menu.replaceChildren();
  make('h2', '', menu, 'Bring settings back');
  item(menu, 'From a file', 'picture or video with settings inside, JSON', () =>
    $('.opened').click(),
  );
  const text = make('textarea', 'pasted', menu);
  text.rows = 5;
  text.setAttribute('aria-label', 'Settings as text');
  text.placeholder = 'Or paste them: a link, parameters of A1111, a graph of ComfyUI, a preset';
  const use = make('button', 'button', menu, 'Use this text');
  use.addEventListener('click', () => {
    if (!text.value.trim()) {
      text.focus();
      return;
    }
    menu.hidePopover();
    openText(text.value);
  });
  openMenu(menu, button);
}

$('.opened').addEventListener('change', event => {
  const file = event.target.files[0];
  event.target.value = '';
  if (file) openFile(file);
});
document.addEventListener('dragover', event => {
  const files = [...((event.dataTransfer || {}).types || [])].includes('Files');
  if (element.isConnected && files && !event.target.closest('#begin')) event.preventDefault();
});
document.addEventListener('drop', event => {
  const file = event.dataTransfer && event.dataTransfer.files[0];
  if (!element.isConnected || !file || event.target.closest('#begin')) return;
  event.preventDefault();
  openFile(file);
});
// Parameters that are pasted into a prompt are taken apart, as are texts that are pasted nowhere.
document.addEventListener('paste', event => {
  if (!element.isConnected || !event.clipboardData || event.target.closest('.pasted, #begin'))
    return;
  const text = event.clipboardData.getData('text');
  const file = event.clipboardData.files[0];
  const writes = event.target.closest('input, textarea');
  if (writes ? /^Steps: \d+, /m.test(text) : text.trim()) {
    event.preventDefault();
    openText(text);
  } else if (!writes && file) openFile(file);
});
