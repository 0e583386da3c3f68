// Keeping and sending: the address, and files.
let linked = '';
function drawLink() {
  const now = value();
  if (busy() || now.sample || now.offline || !now.link || linked === now.run) return;
  linked = now.run;
  const search = '?' + now.link;
  history.replaceState(null, '', location.pathname + search + location.hash);
  store('nag-link', search, 'sessionStorage');
}

// The run that is shown, with whatever was changed since: a link is what the fields say.
function address() {
  const now = value();
  const query = new URLSearchParams(now.link || 'preset=' + now.preset);
  const made = now.request || { prompt: '', negative_prompt: '', seed: -1 };
  for (const name of Object.keys(fields || {})) {
    const text = typeof fields[name] === 'string' ? fields[name] : JSON.stringify(fields[name]);
    if (name in made && !same(fields[name], made[name])) query.set(name, text);
  }
  dispatchEvent(new CustomEvent('nag-address', { detail: query })); // a room adds itself
  const place = now.space
    ? 'https://huggingface.co/spaces/' + now.space
    : location.origin + location.pathname;
  return place + '?' + query.toString().replace(/\+/g, '%20');
}

async function copyLink(button) {
  const text = address();
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const field = Object.assign(make('textarea', '', document.body), { value: text });
    field.select();
    document.execCommand('copy');
    field.remove();
  }
  tell('The link is copied.');
  if (button.matches('.only') || getComputedStyle(button).fontSize === '0px') {
    showCopied(button);
    return;
  }
  if (button.textContent !== 'Copied') button.dataset.label = button.textContent;
  button.textContent = 'Copied';
  setTimeout(() => {
    button.textContent = button.dataset.label;
  }, 1600);
}

// Beside a button that shows no words.
function showCopied(button) {
  const note = $('#copied');
  note.showPopover();
  anchored = button;
  placeMenu(note);
  setTimeout(() => note.hidePopover(), 1600);
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
  const kept = now.run && !now.sample && !now.offline;
  if (kept)
    for (const [kind, label, about] of KINDS) item(menu, label, about, () => ask(kind, label));
  if (kept && pins.length)
    make('p', 'note', menu, 'Pinned columns are not in these: each has a Save of its own.');
  if (fields) item(menu, 'The settings as a preset', 'JSON for the folder presets/', askPreset);
  const choice = make('label', 'choice', menu);
  const box = make('input', '', choice);
  box.type = 'checkbox';
  box.checked = !bare();
  box.addEventListener('change', () => store('nag-bare', box.checked ? '' : 'yes'));
  choice.append('Settings inside pictures and videos');
  openMenu(menu, button);
}

const KINDS = [
  ['strip', 'All in one picture', 'PNG with captions'],
  ['webp', 'All as an animation', 'WebP: videos side by side, pictures in turn'],
  ['mp4', 'The same as a video', 'MP4'],
  ['zip', 'Everything', 'ZIP: pictures and run.json'],
  ['html', 'A page that works offline', 'one HTML file, with this bench in it'],
];

// nag/page/keep.py answers both
function ask(kind, label) {
  tell(label + ' is being made.');
  trigger('like', { run: value().run, kind, bare: bare() });
}

function askPreset() {
  tell('The preset is being made.');
  trigger('like', { run: value().run, kind: 'preset', set: fields });
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

async function withoutTexts(url, film) {
  const bytes = new Uint8Array(await (await fetch(url)).arrayBuffer());
  if (film) {
    // a box of the same length without words: every offset in the file stays true
    const tags = tagsOf(bytes);
    if (tags) bytes.fill(0, tags.from, tags.to).set(LETTERS.encode('free'), tags.from - 4);
    return URL.createObjectURL(new Blob([bytes], { type: 'video/mp4' }));
  }
  const parts = [bytes.slice(0, 8)];
  for (const chunk of chunksOf(bytes)) {
    if (!['tEXt', 'iTXt', 'zTXt', 'eXIf'].includes(chunk.kind)) parts.push(chunk.whole);
  }
  return URL.createObjectURL(new Blob(parts, { type: 'image/png' }));
}

async function download(url, name) {
  if (bare() && /\.(png|mp4)$/.test(name)) url = await withoutTexts(url, name.endsWith('.mp4'));
  offer(url, name);
}
