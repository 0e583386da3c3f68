// Keeping and sending: the address, files, and settings out of pictures.
let linked = '';
function drawLink() {
  const now = value();
  if (busy() || now.sample || now.offline || !now.link || linked === now.run) return;
  linked = now.run;
  const search = '?' + now.link;
  history.replaceState(null, '', location.pathname + search + location.hash);
  store('nag-link', search, 'sessionStorage');
}

async function copyLink(button) {
  const now = value(),
    place = now.space
      ? 'https://huggingface.co/spaces/' + now.space
      : location.origin + location.pathname;
  const address = place + (now.link ? '?' + now.link : '');
  try {
    await navigator.clipboard.writeText(address);
  } catch {
    const field = Object.assign(make('textarea', '', document.body), { value: address });
    field.select();
    document.execCommand('copy');
    field.remove();
  }
  const before = button.textContent;
  button.textContent = 'Copied';
  tell('The link is copied.');
  setTimeout(() => {
    button.textContent = before;
  }, 1600);
}

function openSave(button) {
  const menu = $('#save-menu');
  const now = value();
  menu.replaceChildren();
  make('h2', '', menu, 'Save');
  now.cells
    .filter(cell => cell.state === 'done' && source(cell))
    .forEach(cell => {
      const url = film(cell) || source(cell);
      const name = cell.file + (film(cell) ? '.mp4' : '.png');
      item(menu, cell.name, name, () => download(url, name));
    });
  if (now.run && !now.sample && !now.offline)
    for (const [kind, label, about] of KINDS) item(menu, label, about, () => ask(kind, label));
  const choice = make('label', 'choice', menu);
  const box = make('input', '', choice);
  box.type = 'checkbox';
  box.checked = !bare();
  box.addEventListener('change', () => store('nag-bare', box.checked ? '' : 'yes'));
  choice.append('Settings inside the PNGs');
  openMenu(menu, button);
}

const KINDS = [
  ['strip', 'All in one picture', 'PNG with captions'],
  ['zip', 'Everything', 'ZIP: pictures and run.json'],
  ['html', 'A page that works offline', 'one HTML file, with this bench in it'],
];

function ask(kind, label) {
  tell(label + ' is being made.');
  trigger('like', { run: value().run, kind }); // nag/page/keep.py answers
}

// Pictures carry the settings that made them, unless the visitor does not want that.
function bare() {
  return stored('nag-bare') === 'yes';
}
element.addEventListener('click', event => {
  const link = event.target.closest('a.save');
  // the server names a file after its run; what is fetched here gets the name of its words
  if (!link || !link.href.startsWith('http')) return;
  event.preventDefault();
  download(link.href, link.download);
});

async function withoutTexts(url) {
  const bytes = new Uint8Array(await (await fetch(url)).arrayBuffer());
  const data = new DataView(bytes.buffer);
  const parts = [bytes.slice(0, 8)];
  for (let at = 8; at + 12 <= bytes.length;) {
    const end = at + 12 + data.getUint32(at);
    const kind = String.fromCharCode(...bytes.slice(at + 4, at + 8));
    if (!['tEXt', 'iTXt', 'zTXt', 'eXIf'].includes(kind)) parts.push(bytes.slice(at, end));
    at = end;
  }
  return URL.createObjectURL(new Blob(parts, { type: 'image/png' }));
}

async function download(url, name) {
  if (bare() && name.endsWith('.png')) url = await withoutTexts(url);
  else if (url.startsWith('http')) url = URL.createObjectURL(await (await fetch(url)).blob());
  offer(url, name);
}

// A PNG's text chunks (tEXt, and iTXt as it is), read here: the picture itself is not sent.
async function textsOf(file) {
  const data = new DataView(await file.slice(0, 4 * 2 ** 20).arrayBuffer());
  const bytes = new Uint8Array(data.buffer);
  const found = {};
  if (data.byteLength < 8 || data.getUint32(0) !== 0x89504e47) return null;
  for (let at = 8; at + 12 <= data.byteLength;) {
    const length = data.getUint32(at);
    const kind = String.fromCharCode(...bytes.slice(at + 4, at + 8));
    const body = bytes.slice(at + 8, at + 8 + length);
    const end = body.indexOf(0);
    const name = new TextDecoder('latin1').decode(body.slice(0, Math.max(0, end)));
    if (kind === 'tEXt') found[name] = new TextDecoder('latin1').decode(body.slice(end + 1));
    if (kind === 'iTXt' && body[end + 1] === 0) {
      const language = body.indexOf(0, end + 3);
      const translated = body.indexOf(0, language + 1);
      found[name] = new TextDecoder().decode(body.slice(translated + 1));
    }
    if (kind === 'IEND' || kind === 'IDAT') break;
    at += 12 + length;
  }
  return found;
}

async function openPicture(file) {
  const texts = await textsOf(file);
  const known = Object.fromEntries(
    Object.entries(texts || {}).filter(
      ([name, text]) => ['nag', 'parameters', 'prompt'].includes(name) && text.length < 100000,
    ),
  );
  trigger('input', { text: { none: '', ...known } });
  tell('The settings of ' + file.name + ' are read.');
}

$('.opened').addEventListener('change', event => {
  const file = event.target.files[0];
  event.target.value = '';
  if (file) openPicture(file);
});
document.addEventListener('dragover', event => {
  if (
    element.isConnected &&
    [...((event.dataTransfer || {}).types || [])].includes('Files') &&
    !event.target.closest('#begin')
  )
    event.preventDefault();
});
document.addEventListener('drop', event => {
  const file = event.dataTransfer && event.dataTransfer.files[0];
  if (!element.isConnected || !file || event.target.closest('#begin')) return;
  event.preventDefault();
  openPicture(file);
});
