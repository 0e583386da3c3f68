// Buttons of the bar, keys, and the drawing of a new value.
function openMore() {
  const side = document.querySelector('.sidebar');
  if (!side) return;
  $('.toggle-button', side).click();
  setTimeout(() => {
    const first = $('input', side);
    if (side.classList.contains('open') && first) first.focus();
  }, 350);
}

function openHelp(anchor) {
  const help = document.querySelector('#about');
  help.popover = 'auto';
  help.togglePopover();
}

function openPhoneMenu(button) {
  const menu = $('#save-menu');
  menu.replaceChildren();
  for (const id of ['link', 'save', 'open', 'more', 'help']) {
    const one = document.querySelector('#' + id);
    const name = one && id === 'more' ? 'More settings' : one && one.textContent;
    if (one) item(menu, name, '', () => BAR[id](button));
  }
  openMenu(menu, button);
}

const BAR = {
  link: copyLink,
  save: openSave,
  open: openOpen,
  help: openHelp,
  more: openMore,
  menu: openPhoneMenu,
  theme: () => {
    document.body.classList.toggle('dark');
    document.documentElement.classList.toggle('dark', document.body.classList.contains('dark'));
  },
};
document.addEventListener('click', event => {
  if (!element.isConnected || !event.target.closest) return;
  const button = event.target.closest('#top button, #more');
  if (button && BAR[button.id]) BAR[button.id](button);
  if (event.target.closest('.tag') && event.target.closest('.stale')) pressCompare();
  if (event.target.closest('#use-api a')) {
    event.preventDefault(); // the address alone does not open Gradio's panel, its own button does
    document.querySelector('footer .show-api').click();
  }
});

// What is typed into the list of models replaces the name that stands there, and filters.
document.addEventListener('focusin', event => {
  if (!element.isConnected || !event.target.matches('#model input')) return;
  setTimeout(() => event.target.select(), 100); // behind the click that gave the focus
});

function wipeTo(at) {
  view.wipe = Math.min(100, Math.max(0, at));
  cut();
}
const WIPE = {
  ArrowLeft: () => wipeTo(view.wipe - 2),
  ArrowRight: () => wipeTo(view.wipe + 2),
  ArrowUp: () => wipeTo(view.wipe - 2),
  ArrowDown: () => wipeTo(view.wipe + 2),
  Home: () => wipeTo(0),
  End: () => wipeTo(100),
  PageUp: () => wipeTo(view.wipe - 10),
  PageDown: () => wipeTo(view.wipe + 10),
};
const VIEWS = { 1: 'side', 2: 'wipe', 3: 'flicker', 4: 'difference' };

function next(side) {
  const keys = columns().map(cell => cell.key);
  const taken = view[side === 'a' ? 'b' : 'a'];
  let at = keys.indexOf(view[side]);
  do {
    at = (at + 1) % keys.length;
  } while (keys[at] === taken && keys.length > 2);
  view[side] = keys[at];
  stage();
}

document.addEventListener('keydown', event => {
  if (!element.isConnected) return;
  // in the two fields of words also alone, for they have no second line; not while a word is being
  // composed, which Enter then ends
  const words = event.target.closest?.('#prompt, #negative') && !event.shiftKey;
  if (event.key === 'Enter' && !event.isComposing && (event.ctrlKey || event.metaKey || words)) {
    event.preventDefault();
    pressCompare();
    return;
  }
  const side = document.querySelector('.sidebar.open');
  if (event.key === 'Escape' && side && !document.querySelector(':popover-open')) {
    $('.toggle-button', side).click();
    document.querySelector('#more').focus();
    return;
  }
  if (!element.checkVisibility()) return; // keys 1 and 2 are answers in another room
  const target = event.target,
    writes =
      /textarea|select/i.test(target.tagName) ||
      (target.tagName === 'INPUT' && !['range', 'checkbox'].includes(target.type));
  if (event.ctrlKey || event.metaKey || event.altKey || writes) return;
  const single = view.name !== 'side';
  const slider = target.type === 'range';
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (VIEWS[key]) setView(VIEWS[key]);
  else if (key === '0') reset();
  else if (key === 'f') screenful();
  else if (key === 'd') openDiffer($('.views'));
  else if (single && (key === 'a' || key === 'b')) next(key);
  else if (
    key === ' ' &&
    single &&
    $('.transport').hidden &&
    !/button|input/i.test(target.tagName)
  ) {
    event.preventDefault();
    if (!event.repeat) {
      peek = true;
      tune();
      turn();
    }
  } else if (
    !$('.transport').hidden &&
    [',', '.', ' '].includes(key) &&
    target.tagName !== 'BUTTON'
  ) {
    event.preventDefault();
    if (key === ' ') {
      if (reel.playing) seek(reel.frame);
      else play();
    } else seek(reel.frame + (key === '.' ? 1 : -1));
  } else if (
    view.name === 'wipe' &&
    WIPE[key] &&
    !slider &&
    (target.closest('.frame') || key.startsWith('ArrowL') || key.startsWith('ArrowR'))
  ) {
    event.preventDefault();
    WIPE[key]();
  } else if (
    view.name === 'flicker' &&
    ['Enter', 'ArrowLeft', 'ArrowRight'].includes(key) &&
    target.closest('.frame')
  ) {
    event.preventDefault();
    other = !other;
    turn();
  }
});
addEventListener('keyup', event => {
  if (event.key === ' ' && peek) {
    peek = false;
    tune();
    turn();
  }
});
addEventListener('blur', () => {
  if (peek) {
    peek = false;
    tune();
    turn();
  }
});

// Previews are kept for the scrubber; the cells of a run that is over lie faint under the next one.
function collect() {
  const now = value();
  if (shownRun !== now.run) {
    shownRun = now.run;
    previews.clear();
    view.step = null;
  }
  now.cells.forEach(cell => {
    if (cell.preview && cell.state === 'step') {
      const kept = previews.get(cell.key) || [];
      kept[cell.step - 1] = cell.preview;
      previews.set(
        cell.key,
        Array.from(
          kept,
          (one, i) => one || kept.slice(0, i).reverse().find(Boolean) || cell.preview,
        ),
      );
    }
  });
}

function drawScrubber() {
  const longest = Math.max(0, ...[...previews.values()].map(kept => kept.length));
  const node = $('.scrubber');
  node.hidden = longest < 2 || busy();
  $('.steps').max = longest + 1;
  if (view.step === null) $('.steps').value = longest + 1;
  const ended = value().cells.some(cell => cell.state === 'stopped') ? 'where it stopped' : 'finished';
  $('.scrubber output').textContent = view.step ? 'preview of step ' + view.step : ended;
  $('.follow').hidden = view.step === null;
}
$('.steps').addEventListener('input', event => {
  const at = Number(event.target.value);
  view.step = at >= Number(event.target.max) ? null : at;
  redraw();
});
$('.follow').addEventListener('click', () => {
  view.step = null;
  redraw();
});

// The last finished picture of each column, and the one before.
let model = '';
function keep() {
  if (model !== value().preset) {
    model = value().preset;
    finished.clear();
    former.clear();
  }
  value()
    .cells.filter(cell => cell.state === 'done' && source(cell))
    .forEach(cell => {
      const last = finished.get(cell.key);
      if (last && changed(cell.made, last.made).length) former.set(cell.key, last);
      finished.set(cell.key, cell);
    });
}

function redraw() {
  keep();
  collect();
  drawCard();
  drawCells();
  drawChips();
  drawVisit();
  time();
  drawVerdict();
  drawState();
  drawScrubber();
  drawLive();
  drawLink();
  stage();
  cue();
}

// A value of a run that was on its way when another model was chosen comes too late: it is dropped.
let good = value();
function receive() {
  const now = value();
  const late =
    !now.sample &&
    !now.opened &&
    fields &&
    now.preset !== fields.preset &&
    now.run !== wanted &&
    good.preset === fields.preset;
  if (late) props.value = good;
  else good = now;
  settle();
  redraw();
}

watch('value', receive);
redraw();
readSettings();
restore();
if (phone.matches)
  setTimeout(() => {
    const dock = document.querySelector('#dock');
    if (dock) dock.scrollLeft = 0;
  }, 300);

// On a phone the dock is one sideways strip: dots say how much there is in it, and where one is.
function drawDots(dock) {
  const stops = every('.knob, #seed', dock)
    .filter(one => one.offsetParent)
    .map(one => one.offsetLeft)
    .sort((a, b) => a - b);
  const row = document.querySelector('.dots') || make('div', 'dots', dock.parentNode);
  row.setAttribute('aria-hidden', 'true');
  if (row.children.length !== stops.length) row.replaceChildren(...stops.map(() => make('i')));
  const seen = dock.scrollLeft + dock.clientWidth;
  const here =
    seen > dock.scrollWidth - 4
      ? stops.length - 1
      : stops.filter(left => left <= dock.scrollLeft + dock.clientWidth / 3).length - 1;
  every('i', row).forEach((dot, i) => dot.classList.toggle('on', i === Math.max(0, here)));
}
const strip = document.querySelector('#dock');
if (strip) {
  strip.addEventListener('scroll', () => drawDots(strip), { passive: true });
  new ResizeObserver(() => drawDots(strip)).observe(strip);
}
