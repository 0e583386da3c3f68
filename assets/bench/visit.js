// The runs of this visit, and columns pinned from them.
const past = [];
let shownRun = '';

function remember() {
  const now = value();
  if (now.sample || busy(now) || !now.run || past.some(one => one.run === now.run)) return;
  const done = now.cells.filter(cell => cell.state === 'done');
  if (!done.length) return;
  const before = past[0] && past[0].value.request;
  past.unshift({
    run: now.run,
    value: JSON.parse(JSON.stringify(now)),
    label: differs(before, now.request),
    at: new Date(),
  });
  past.length = Math.min(past.length, 24);
}

// What moved since the run before, in a line.
function differs(before, now) {
  if (
    !before ||
    before.prompt !== now.prompt ||
    before.negative_prompt !== now.negative_prompt ||
    before.preset !== now.preset
  )
    return (now.prompt.split(' ').pop() || 'picture') + ', seed ' + now.seed;
  const [old, made] = [used(before), used(now)];
  const moved = Object.keys(MADE_OF).filter(
    name => name in old && name in made && !same(old[name], made[name]),
  );
  return moved.map(name => saidOf(name, old[name], made[name])).join(', ') || 'again';
}

function saidOf(name, before, now) {
  if (name !== 'guidance')
    return typeof now === 'boolean'
      ? (now ? '' : 'not ') + MADE_OF[name][1]
      : MADE_OF[name][1] + ' ' + now;
  const called = key => METHODS[key].replace(', for research', '');
  const added = now.filter(key => !before.includes(key)).map(key => '+ ' + called(key));
  const gone = before.filter(key => !now.includes(key)).map(key => '− ' + called(key));
  return [...added, ...gone].join(', ') || 'columns in another order';
}

function drawVisit() {
  remember();
  const node = $('.visit');
  const known = past.map(one => one.run).join() + '|' + value().run;
  node.hidden = !past.length;
  if (node.dataset.known === known) return;
  node.dataset.known = known;
  every('.past', node).forEach(one => one.remove());
  past.forEach(one => {
    const cells = one.value.cells.filter(cell => cell.state === 'done');
    const best = cells.find(cell => cell.key === 'nag') || cells[cells.length - 1];
    const button = make('button', 'past', node);
    const image = make('img', '', button);
    const text = make('span', '', button);
    image.alt = '';
    image.src = source(best);
    make('small', '', text, one.label);
    const read = (best.meters || [])[0];
    const line = make('small', 'outcome ' + (read ? read.outcome : ''), text);
    if (read) sign('', line);
    line.append(
      read
        ? read.name + ' ' + read.text.replace(/^[\d ]+% ?/, '')
        : one.at.toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' }),
    );
    button.title = 'Go back to it';
    button.setAttribute('aria-current', String(one.run === value().run));
    button.addEventListener('click', () => goBack(one));
  });
}

let wanted = ''; // the earlier run that was asked for, maybe of another model
function goBack(one) {
  if (busy()) return;
  wanted = one.run;
  props.value = JSON.parse(JSON.stringify(one.value));
  trigger('input', { set: one.value.request });
  redraw();
}

// A column that stays while knobs move: another NAG setting, or a picture of an earlier run.
function pin(cell, label) {
  const copy = JSON.parse(JSON.stringify(cell));
  copy.key = cell.key + ' pinned ' + (pins.length + 1) + ' ' + Date.now();
  copy.pinnedAs = label;
  pins.push(copy);
  redraw();
  tell(cell.name + ' is pinned as a column.');
}

addEventListener('nag-pin', event => {
  if (element.isConnected) pin(event.detail.cell, event.detail.label);
});

function unpin(key) {
  pins.splice(
    pins.findIndex(cell => cell.key === key),
    1,
  );
  redraw();
}

function addButton() {
  const button = make('button', 'add icon i-plus');
  make('span', '', button, 'Add a column');
  button.title = 'Keep a picture while you move knobs, or show another method';
  button.setAttribute('aria-haspopup', 'true');
  button.addEventListener('click', () => openAdd(button));
  return button;
}

const METHODS = {
  none: 'No guidance',
  cfg: 'CFG',
  nag: 'NAG',
  'cfg+nag': 'CFG + NAG',
  nasa: 'NASA, for research',
  ong: 'ONG, for research',
  vsf: 'VSF, for research',
  negpip: 'NegPiP, for research',
  apg: 'CFG + APG, for research',
};
function openAdd(button) {
  const menu = $('#add-menu');
  const now = value();
  menu.replaceChildren();
  make('h2', '', menu, 'Add a column');
  now.cells
    .filter(cell => cell.state === 'done' && cell.key !== 'none')
    .forEach(cell => {
      item(
        menu,
        'Pin ' + cell.name + ' as it is',
        cell.set.map(part => part.slice(1).join(' ')).join(', ') + ': then move a knob',
        () => pin(cell, 'pinned'),
      );
    });
  past
    .filter(one => one.run !== now.run)
    .slice(0, 4)
    .forEach(one => {
      const cell = one.value.cells.find(cell => cell.key === 'nag' && cell.state === 'done');
      if (cell)
        item(menu, 'Pin NAG of “' + one.label + '”', 'from this visit', () => pin(cell, one.label));
    });
  const shown = fields ? fields.guidance : now.cells.map(cell => cell.key);
  for (const [key, name] of Object.entries(METHODS)) {
    if (!shown.includes(key))
      item(menu, name, 'drawn with the settings below', () => draw({ guidance: [...shown, key] }));
  }
  item(menu, 'What differs', 'between two columns or runs', () => openDiffer(button));
  openMenu(menu, button);
}

function item(menu, label, about, action) {
  const button = make('button', 'item', menu);
  make('b', '', button, label);
  make('small', '', button, about);
  button.addEventListener('click', () => {
    menu.hidePopover();
    action();
  });
}

let anchored = null; // what the open menu belongs to
function openMenu(menu, anchor) {
  anchored = anchor;
  menu.showPopover();
  placeMenu(menu);
  const first = $('button, a, select', menu);
  if (first) first.focus();
}

function placeMenu(menu) {
  const box = anchored.getBoundingClientRect();
  const own = menu.getBoundingClientRect();
  const left = Math.min(innerWidth - own.width - 8, box.right - own.width);
  const top = Math.min(innerHeight - own.height - 8, box.bottom + 4);
  menu.style.left = Math.max(8, left) + 'px';
  menu.style.top = Math.max(8, top) + 'px';
}
